"""Hooks that catch what goes into modules and comes out of them."""

from typing import Any

from torch import Tensor, nn


def residual_into(tensors: list[Tensor]) -> Any:
    """Returns a forward pre-hook that adds the first argument to a list, as a place that gradients reach."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor = args[0] if args else next(iter(kwargs.values()))
        if not tensor.requires_grad:
            tensor.requires_grad_()
        tensors.append(tensor)

    return hook


def output_into(tensors: list[Tensor]) -> Any:
    """Returns a forward hook that adds the first output to a list."""

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        tensors.append(output if isinstance(output, Tensor) else output[0])

    return hook
