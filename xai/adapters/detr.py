"""DETR: an encoder over image cells and a decoder of object queries, [queries | image].

No token is read for the whole image: give a target with a query, `xai.targets.detection`.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai.adapters.common import prefix_of, stack
from xai.recording.adapter import Adapter, Layout, Site, Stream

QUERIES: Stream = ("queries",)
IMAGE: Stream = ("image",)
STRIDES = (4, 8, 16, 32, 64)


def detr(model: nn.Module) -> Adapter:
    """Builds the adapter of a detector, or of the one inside a model with a mask head."""
    inside = getattr(model, "detr", None)
    prefix = prefix_of(model) if inside is None else "detr." + prefix_of(inside)
    encoder = stack(model, prefix + "encoder.layers", IMAGE, "self_attn", "self_attn", "self_attn.o_proj")
    layers: list[tuple[Site, ...]] = [(site,) for site in encoder]
    for i, _ in model.get_submodule(prefix + "decoder.layers").named_children():
        for name, keys in (("self_attn", QUERIES), ("encoder_attn", IMAGE)):
            module = f"{prefix}decoder.layers.{i}.{name}"
            layers.append((Site(module, QUERIES, keys, module, module + ".o_proj"),))
    return Adapter(tuple(layers), _layout)


def _layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
    lengths = {"queries": sizes[QUERIES], "image": sizes[IMAGE]}
    grid = _grid(inputs["pixel_values"], lengths["image"])
    mask = inputs.get("pixel_mask")
    mask = {} if mask is None else {"image": _cells(mask, grid)}
    queries = torch.ones(1, lengths["queries"], dtype=torch.bool)
    return Layout(lengths, {}, mask, {"queries": queries}, {"image": grid})


def _cells(pixel_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Real cells [B, rows * columns], masked as DETR itself does it."""
    return F.interpolate(pixel_mask[None].float(), size=grid)[0].bool().flatten(1)


def _grid(pixels: Tensor, count: int) -> tuple[int, int]:
    """Rows and columns of the `count` cells of a backbone that shrinks the picture by a power of two."""
    height, width = pixels.shape[-2:]
    for stride in STRIDES:
        grid = (ceil(height / stride), ceil(width / stride))
        if grid[0] * grid[1] == count:
            return grid
    raise ValueError(f"no stride of {STRIDES} makes {count} cells of a picture of {height} x {width} pixels")
