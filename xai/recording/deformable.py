"""Deformable attention: every query samples the values of a pyramid of grids at points of its own.

transformers computes it in modules of one signature. While a pass is watched, a call of one is a call of
`deformable_attention`, which modes see as they see torch's own attention.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xai.recording.attention import See
from xai.recording.unchanged import modules_of

ARGUMENTS = (
    "value",
    "value_spatial_shapes",
    "value_spatial_shapes_list",
    "level_start_index",
    "sampling_locations",
    "attention_weights",
)


def deformable_attention(
    forward: Callable[..., Tensor],
    value: Float[Tensor, "B S H D"],  # of all cells of all grids
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: Sequence[tuple[int, int]],  # rows and columns of each grid
    level_start_index: Tensor,
    sampling_locations: Float[Tensor, "B q H levels points 2"],  # shares of width and height
    attention_weights: Float[Tensor, "B q H levels points"],
    *others: Any,
) -> Float[Tensor, "B q _"]:
    """The forward of a module, as a torch function."""
    call: tuple[Any, ...] = (
        value,
        value_spatial_shapes,
        value_spatial_shapes_list,
        level_start_index,
        sampling_locations,
        attention_weights,
        *others,
    )
    if has_torch_function_variadic(value):
        own: Callable[..., Tensor] = deformable_attention
        return handle_torch_function(own, (value,), forward, *call)
    return forward(*call)


@contextmanager
def deformable_shown(model: nn.Module) -> Iterator[None]:
    """Modes see the deformable attentions of the model; each module gets its own forward back."""
    modules = [module for module in modules_of(model).values() if _is_deformable(module)]
    own = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = partial(_call, module.forward)
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _is_deformable(module: nn.Module) -> bool:
    return _takes_its_arguments(type(module).forward)


@cache
def _takes_its_arguments(forward: Callable[..., Any]) -> bool:
    return tuple(inspect.signature(forward).parameters)[1:7] == ARGUMENTS


def _call(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    return deformable_attention(forward, *inspect.signature(forward).bind(*args, **kwargs).args)


def written_out(
    see: See,
    forward: Callable[..., Tensor],
    value: Tensor,
    shapes: Tensor,
    grids: Sequence[tuple[int, int]],
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    *others: Any,
) -> Tensor:
    """`deformable_attention` as a product of a map over all cells with their values."""
    value = value.transpose(1, 2)
    A, real = sampled_map(weights, locations, grids), (value != 0).any(dim=-1)[:, :, None]
    shown = A * real  # the model gives padding values of zero, and no mask
    see(shown, None)
    mixed = shown @ value
    if not real.all():  # values that are zero by chance have their gradient
        mixed = mixed + (value.mT @ (A * ~real).detach().mT).mT
    return mixed.transpose(1, 2).flatten(2)


def sampled_map(
    weights: Float[Tensor, "B q H levels points"],
    locations: Float[Tensor, "B q H levels points 2"],
    grids: Sequence[tuple[int, int]],
) -> Float[Tensor, "B H q S"]:
    """Lays the weight of every point on the four cells around it, by bilinear interpolation; none outside of the grid.

    It is what `grid_sample` does with `align_corners=False` and `padding_mode="zeros"`. Its gradients, by the places of points
    too, are those of that function.
    """
    weights, locations = weights.transpose(1, 2), locations.transpose(1, 2)
    levels = []
    for level, (rows, columns) in enumerate(grids):
        at = locations[..., level, :, :] * locations.new_tensor([columns, rows]) - 0.5
        corner = at.detach().floor()
        rest = at - corner
        whole = weights.new_zeros(*weights.shape[:3], rows * columns)
        for right in (0, 1):
            for below in (0, 1):
                x, y = corner[..., 0] + right, corner[..., 1] + below
                share = (rest if right else 1 - rest)[..., 0] * (rest if below else 1 - rest)[..., 1]
                inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
                cell = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).long()
                whole = whole.scatter_add(-1, cell, weights[..., level, :] * share * inside)
        levels.append(whole)
    return torch.cat(levels, dim=-1)
