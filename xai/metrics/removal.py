"""What removing a token means, on tensors: for the callables that run a model on what is left."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def drop(tokens: Tensor, keep: Tensor, length: int) -> Tensor:
    """Tokens [N, T, ...] to those kept, in their order, [N, length, ...]; `keep` [N, T] keeps `length` in every row.

    Dropped after the positions were added, tokens keep their own; dropped before, as text is, they close up.
    """
    index = keep.int().argsort(dim=1, descending=True, stable=True)[:, :length]
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None], index]


def filler(images: Tensor, how: Literal["mean", "zero", "blur"]) -> Tensor:
    """What removed patches of images [B, C, H, W] show, of that shape: one for each image, for all of its steps.

    The image's own mean colour; zero (black before normalisation, as TransAtt does; after it the data set's mean); or
    the image blurred by a Gaussian with a sixteenth of its height as deviation.
    """
    if how == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    if how == "zero":
        return torch.zeros_like(images)
    return _blurred(images, images.shape[2] / 16)


def blank(images: Tensor, filler: Tensor, keep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] with the patches that are not kept, keep [N, h * w], showing `filler` [N, C, H, W]."""
    patches = keep.unflatten(1, grid)[:, None].float()
    return images.where(F.interpolate(patches, size=images.shape[2:], mode="nearest") > 0, filler)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    radius = int(3 * deviation) + 1
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = (-(offsets**2) / (2 * deviation**2)).exp()
    kernel = (weights / weights.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, :, None], groups=images.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=images.shape[1])
