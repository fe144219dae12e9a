"""Patches that are covered: pixels of a picture as a processor gives them, with a filler where patches are removed."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from xai.adapters.tokens import GRIDS, patch_order
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Removal
from xai.metrics.removal import blank, filler

PIXELS: tuple[Removal, ...] = ("mean", "zero", "blur")
Cover = Callable[[Perturbed, Tensor, Tensor], Tensor]  # rows, their pixels, and the patches [N, patches] that stay


def covering(
    images: Any, arguments: Mapping[str, Any], grid: tuple[int, int] | None, removal: Removal, who: str
) -> Cover:
    """Returns what covers patches.

    Args:
        images: the image processor.
        arguments: of all samples.
        grid: rows and columns of the patches.
        removal: "mean", the picture's own mean colour; "zero", black; "blur".
        who: what the model is called.

    Raises:
        ValueError: pixels that are laid out in another way, or a removal that they do not have.
    """
    pixels = arguments.get("pixel_values")
    sizes = arguments.get(GRIDS["pixel_values"])
    if pixels is not None and pixels.dim() == 4 and grid is not None:
        return _of_pictures(images, pixels, grid, removal)
    if pixels is not None and pixels.dim() == 2 and sizes is not None and len(sizes) == 1 and removal != "blur":
        return _of_patches(images, pixels, sizes, removal)
    raise ValueError(f"{who} takes its picture in a way in which patches cannot be covered (by {removal!r})")


def _of_pictures(images: Any, pixels: Tensor, grid: tuple[int, int], removal: Removal) -> Cover:
    mean, std = (colour[:, None, None] for colour in _normalisation(images, pixels))
    fillers = ((filler((pixels * std + mean).float(), removal) - mean) / std).to(pixels)  # type: ignore[arg-type]
    return lambda batch, seen, keep: blank(seen, fillers[batch.rows], keep, grid)


def _of_patches(images: Any, pixels: Tensor, sizes: Tensor, removal: Removal) -> Cover:
    """Patches [P, channels * frames * side * side], in blocks of those that are merged, as Qwen-VL's processors cut them."""
    by_channel = pixels.unflatten(1, (3, -1))
    mean, std = _normalisation(images, pixels)
    colour = by_channel.mean(dim=(0, 2)) if removal == "mean" else -mean / std
    plain = colour[:, None].expand(by_channel.shape[1:]).flatten()
    (order, _), *_ = patch_order(sizes, images.merge_size)
    return lambda batch, seen, keep: seen.where(keep[:, order.to(keep.device)].flatten()[:, None], plain)


def _normalisation(images: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3] by which a processor normalises."""
    if not getattr(images, "do_normalize", False):
        return like.new_zeros(3), like.new_ones(3)
    return like.new_tensor(images.image_mean), like.new_tensor(images.image_std)
