"""Hooks that catch what goes into modules and comes out of them."""

from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn


def residual_into(tensors: list[Tensor], begins: Set[int], kept: Set[int]) -> Any:
    """Returns a forward pre-hook that adds the first argument of each call to a list.

    Args:
        tensors: the list; of calls that are not `kept` it gets the shape alone.
        begins: the numbers of the calls that begin a graph: gradients reach their argument.
        kept: those of the calls that are.
    """

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor, number = args[0] if args else next(iter(kwargs.values())), len(tensors)
        if not tensor.requires_grad and number in begins:
            tensor.requires_grad_()
        tensors.append(tensor if number in kept else shape_of(tensor))

    return hook


def output_into(tensors: list[Tensor], kept: Set[int]) -> Any:
    """Returns a forward hook that adds the first output of each call to a list; of those that are not `kept` the shape."""

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        tensor, number = output if isinstance(output, Tensor) else output[0], len(tensors)
        tensors.append(tensor if number in kept else shape_of(tensor))

    return hook


def shape_of(tensor: Tensor) -> Tensor:
    """Returns a tensor of this shape, type and device that takes no memory, and whose values say nothing."""
    with torch._C.DisableTorchFunction():  # no call of the model's
        return shape_alone(tensor.shape, tensor.dtype, tensor.device)


def shape_alone(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a tensor that takes no memory, and whose values say nothing."""
    return torch.empty((), dtype=dtype, device=device).expand(shape)
