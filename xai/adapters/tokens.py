"""What the number of a token says: its rank, the source it comes from, and its position there.

Tokens are `rank << 48 | source << 32 | position`; 0 is no token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEARNED, GIVEN, IMAGE, CLASH = 1, 2, 3, 7  # ranks: the higher one stays where operands meet
POSITION = (1 << 32) - 1
IMAGE_SHIFT = 24  # above these bits of a learned token's position is the image that it stands before, from 1
GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}  # the argument with their sizes


PATCHES = ("patch_coord", "spatial_shapes")  # arguments that say where patches lie which are given one by one


class Doubt(Exception):
    """It cannot be told from the pass how to explain the model; the message names the module."""


@dataclass(frozen=True)
class Source:
    """Where tokens come from: an argument of the model, the cells of a convolution of an image, or a parameter."""

    rank: int
    argument: str  # of the model; "" for parameters
    grid: tuple[int, int] | None = None  # rows and columns that the positions count, of images
    image: int = 0  # which, of several of the one sample
    members: Callable[[], list[list[int]] | None] | None = field(
        default=None, compare=False
    )  # tokens that each is made from


def rank_of(tokens: Tensor) -> Tensor:
    return tokens >> 48


def source_of(token: Any) -> Any:
    """The number of the source, of a token or of each of a tensor."""
    return (token >> 32) & 0xFFFF


def before_image(tokens: Tensor, image: int | None) -> Tensor:
    """Learned tokens of each image as tokens of their own: every image has its class token."""
    return tokens if image is None else tokens + (rank_of(tokens) == LEARNED) * ((image + 1) << IMAGE_SHIFT)


def without_image(token: int) -> int:
    """A learned token as it is before any image."""
    return token & ~(POSITION >> IMAGE_SHIFT << IMAGE_SHIFT)


def met(a: Tensor, b: Tensor) -> Tensor:
    """Of the tokens of two operands the ones of higher rank; CLASH where two tokens are made one."""
    if a is b or (a.shape == b.shape and torch.equal(a, b)):
        return a
    one, other = rank_of(a), rank_of(b)
    higher = torch.where(one >= other, a, b)
    # the arguments of one model say different things of one token, such as its word and its type
    same = (one == GIVEN) & (other == GIVEN) & ((a & POSITION) == (b & POSITION))
    clash = (one >= GIVEN) & (other >= GIVEN) & (a != b) & ~same
    return torch.where(same, torch.minimum(a, b), higher).masked_fill(clash, CLASH << 48)


def own_tokens(tokens: Tensor) -> Tensor | None:
    """Tokens [..., T] of rows [..., T, D] that are each of a token and its neighbours, as MobileBERT's; None of others.

    They are as many as the tokens are, and the n-th has the n-th of them inside.
    """
    every = tokens[tokens != 0].unique()
    own = every.expand(tokens.shape[:-1]) if len(every) == tokens.shape[-2] else None
    return own if own is not None and bool((tokens == own[..., None]).any(dim=-1).all()) else None


def lean(tokens: Tensor) -> Tensor:
    """With one entry on the last axis where all are alike by construction."""
    return tokens[..., :1] if tokens.dim() and tokens.stride(-1) == 0 else tokens


def cells_under(tokens: Tensor, call: Mapping[str, Any]) -> list[list[int]] | None:
    """Tokens [1, 1, rows, columns] under each cell of what a convolution or a pooling with a kernel makes; None without one."""
    kernel = call["weight"].shape[2:] if "weight" in call else call.get("kernel_size")
    if kernel is None:
        return None
    stride = call.get("stride") or kernel
    cells = F.unfold(tokens.double(), kernel, call.get("dilation", 1), call.get("padding", 0), stride)[0].long()
    return [sorted(set(cell) - {0}) for cell in cells.T.tolist()]


def patch_order(grids: Tensor, merge: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """Of each image, or frame of a video, in which order its patches come, and its rows and columns.

    Qwen's processors give them block by block, of merge x merge patches; the order says which patch of the image each is, row
    by row. Of a video it is the frames that are one patch (two), as the model has them.
    """
    found = []
    for frames, rows, columns in grids.tolist():
        cells = torch.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
        found += [(cells.transpose(1, 2).flatten(), (rows, columns))] * frames
    return found


def patches_in(inputs: Mapping[str, Any]) -> bool:
    """Whether the images are given as patches, [B, T, pixels]."""
    return any(isinstance(inputs.get(name), Tensor) for name in PATCHES)


def grid_of(inputs: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of images that are given as patches, row by row; None where samples have other ones, or padding."""
    where, shapes, mask = (inputs.get(name) for name in (*PATCHES, "pixel_attention_mask"))
    if where is not None:
        rows, columns = (where[0].amax(dim=0) + 1).tolist()
        whole = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(where)
        return (rows, columns) if where.shape[1:] == whole.shape and bool((where == whole).all()) else None
    if shapes is not None and bool((shapes == shapes[:1]).all()) and (mask is None or bool(mask.all())):
        rows, columns = shapes[0].tolist()
        return rows, columns
    return None
