"""Follows the pixels of an image through preprocessing, and brings maps back to them. Sizes are (height, width)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Literal

import torch
from torch import Tensor

Size = tuple[int, int]
Library = Literal["torchvision", "transformers"]


@dataclass(frozen=True)
class Geometry:
    """An image was resized, and the model saw a window of the result.

    `window` is the pixels that the grid of tokens covers. It begins `offset` (top, left) pixels inside the resized image;
    where that is negative or the window too large, the model saw padding.
    """

    original: Size
    resized: Size
    offset: Size
    window: Size

    def shares(self) -> tuple[float, float, float, float]:
        """Returns left, top, width and height of the window as shares of the image."""
        (top, left), (height, width), (rows, columns) = self.offset, self.window, self.resized
        return left / columns, top / rows, width / columns, height / rows


def squash(original: Size, size: int | Size) -> Geometry:
    """Returns the geometry of an image resized to `size` whatever the proportions, as ViT's preprocessing does."""
    size = _pair(size)
    return Geometry(original, size, (0, 0), size)


def shortest(original: Size, size: int | Size, crop: int | Size | None = None, by: Library = "torchvision") -> Geometry:
    """Returns the geometry of an image whose shorter side is resized to `size`, as in CLIP and timm.

    The model sees a window of `crop` (by default `size`) from the middle. The libraries place it differently by a pixel where an
    odd number of pixels is left.
    """
    height, width = _pair(size)
    if height == width:
        short = min(original)
        resized = _pair_of(height if side == short else int(height * side / short) for side in original)
    else:  # open_clip's way for windows that are not square
        ratio = min(original[0] / height, original[1] / width)
        resized = _pair_of(round(side / ratio) for side in original)
    return _centred(original, resized, _pair(size if crop is None else crop), by)


def processor_geometry(processor: Any, original: Size) -> Geometry:
    """Returns where a processor of transformers puts an image: resized, then a window from its middle.

    Raises ValueError for a size that is neither height and width nor the shortest edge.
    """
    size: Mapping[str, int] = {k: v for k, v in dict(processor.size).items() if v} if processor.do_resize else {}
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    window = (crop["height"], crop["width"]) if crop else None
    if size.keys() == {"height", "width"}:
        return cut(squash(original, (size["height"], size["width"])), window)
    if size.keys() == {"shortest_edge"}:
        return shortest(original, size["shortest_edge"], window, by="transformers")
    raise ValueError(f"the image processor's size is {size}; known: height and width, or shortest_edge")


def cut(whole: Geometry, window: Size | None) -> Geometry:
    """Returns the geometry of a window from the middle of an image that was resized; None for all of it."""
    if window is None:
        return whole
    down, across = ((side - opening) // 2 for side, opening in zip(whole.resized, window, strict=True))
    return replace(whole, offset=(down, across), window=window)


def longest(original: Size, size: int | Size) -> Geometry:
    """Returns the geometry of an image whose longer side is resized to `size`, with the rest padded, as in open_clip."""
    height, width = _pair(size)
    ratio = max(original[0] / height, original[1] / width)
    return _centred(original, _pair_of(round(side / ratio) for side in original), (height, width), "torchvision")


def upsample(
    map: Tensor, geometry: Geometry, mode: Literal["bilinear", "nearest"] = "bilinear", outside: float = nan
) -> Tensor:
    """Brings a map [..., rows, columns] to the pixels of the original image, [..., height, width]; `outside` what no token saw.

    Each pixel's centre is followed into the window. "nearest" takes the token it fell into, "bilinear" weighs the tokens
    whose centres surround it.
    """
    weights, visible = zip(*(_weights(geometry, axis, map.shape[axis - 2], mode) for axis in (0, 1)), strict=True)
    rows, columns = (weight.to(map.device, map.dtype) for weight in weights)
    inside = (visible[0][:, None] & visible[1]).to(map.device)
    return (rows @ map @ columns.mT).masked_fill(~inside, outside)


def _weights(geometry: Geometry, axis: int, cells: int, mode: str) -> tuple[Tensor, Tensor]:
    """Returns how much of each cell is in each pixel of one axis [pixels, cells], and which pixels the window saw [pixels]."""
    original, resized, offset, window = (
        getattr(geometry, name)[axis] for name in ("original", "resized", "offset", "window")
    )
    centres = (torch.arange(original, dtype=torch.float64) + 0.5) * resized / original - offset
    position = centres * cells / window
    if mode == "nearest":
        lower, share = position.floor(), torch.zeros_like(position)
    else:
        inner = (position - 0.5).clamp(0, cells - 1)
        lower, share = inner.floor(), inner - inner.floor()
    index = torch.arange(cells)
    lower, share = lower[:, None], share[:, None]
    weights = (index == lower) * (1 - share) + (index == lower + 1) * share
    return weights, (centres >= 0) & (centres < window)


def _centred(original: Size, resized: Size, window: Size, by: Library) -> Geometry:
    def offset(side: int, opening: int) -> int:
        if side < opening:
            return -((opening - side) // 2)
        return round((side - opening) / 2) if by == "torchvision" else (side - opening) // 2

    return Geometry(original, resized, _pair_of(map(offset, resized, window)), window)


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _pair_of(sides: Iterable[int]) -> Size:
    height, width = sides
    return height, width
