"""Hooks that catch what goes into modules and comes out of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def residual_into(tensors: list[Tensor], begins: Sequence[bool], kept: Sequence[bool]) -> Any:
    """Returns a forward pre-hook that adds the first argument of each call to a list.

    Args:
        tensors: the list; of calls that are not `kept` it gets the shape alone.
        begins: which calls begin a graph: gradients reach their argument.
        kept: which calls are.
    """

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor, number = args[0] if args else next(iter(kwargs.values())), len(tensors)
        if not tensor.requires_grad and any(begins[number : number + 1]):
            tensor.requires_grad_()
        tensors.append(tensor if any(kept[number : number + 1]) else shape_of(tensor))

    return hook


def output_into(tensors: list[Tensor], kept: Sequence[bool]) -> Any:
    """Returns a forward hook that adds the first output of each call to a list; of those that are not `kept` the shape."""

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        tensor, number = output if isinstance(output, Tensor) else output[0], len(tensors)
        tensors.append(tensor if any(kept[number : number + 1]) else shape_of(tensor))

    return hook


def shape_of(tensor: Tensor) -> Tensor:
    """Returns a tensor of this shape, type and device that takes no memory, and whose values say nothing."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
