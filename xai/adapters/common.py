"""What the tables of several families share."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from xai.recording.adapter import Layout, Site, Stream


def stack(model: nn.Module, layers: str, stream: Stream, module: str, residual: str, output: str) -> list[Site]:
    """Self-attention of each layer in the list named `layers`; the other names are inside a layer."""
    starts = [f"{layers}.{name}." for name, _ in model.get_submodule(layers).named_children()]
    return [Site(start + module, stream, stream, start + residual, start + output) for start in starts]


def side_by_side(*towers: Sequence[Site]) -> tuple[tuple[Site, ...], ...]:
    """Layers of towers that do not see each other; the last layers stand together, so that "last k" is k of each."""
    rows = zip_longest(*(reversed(tower) for tower in towers))
    return tuple(tuple(site for site in row if site is not None) for row in rows)[::-1]


def prefix_of(model: nn.Module) -> str:
    """How the names of modules start in a transformers model: with its encoder's name, if it has a head around it."""
    name = str(model.base_model_prefix)
    return f"{name}." if isinstance(getattr(model, name, None), nn.Module) else ""


def joined(layouts: Sequence[Layout]) -> Layout:
    """The layouts of several modalities as one, in this order on the joint axis."""

    def merged(field: str) -> dict[str, Any]:
        return {name: value for layout in layouts for name, value in getattr(layout, field).items()}

    return Layout(**{field.name: merged(field.name) for field in fields(Layout)})


def patch_grid(pixels: Tensor, patch: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in images [B, 3, H, W]; a rest at the border is cut off."""
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return pixels.shape[-2] // height, pixels.shape[-1] // width


def before_grid(length: int, grid: tuple[int, int]) -> Tensor:
    """Special tokens [1, length] of an image sequence: those that stand before the patches."""
    return torch.arange(length)[None] < length - grid[0] * grid[1]


def text_ends(ids: Tensor | None, mask: Tensor) -> Tensor:
    """Special tokens [B, length] of a text like "[CLS] a b [SEP] c [SEP]": the first, the last, and copies of the last.

    Configurations do not tell the id of [SEP], but the last real token is one. Without `ids` the ends alone are found.
    """
    order = mask.bool().cumsum(dim=1)
    first, last = ((order == end) & mask.bool() for end in (1, order[:, -1:]))
    if ids is None:
        return first | last
    return first | (mask.bool() & (ids == (ids * last).sum(dim=1, keepdim=True)))
