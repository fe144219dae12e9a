"""The images as a model saw them: what a processor made of pictures, back in colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xai.adapters.tokens import GRIDS, patch_order


def pictures_of(processor: Any, inputs: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Returns the pixels of each image modality.

    Args:
        processor: what made the inputs.
        inputs: of the model, with `pixel_values` [..., 3, height, width], or patches as Qwen's processors cut them.
        modalities: of images, in the order in which the model gets them.

    Returns:
        [3, height, width] from 0 to 1 by modality; nothing where they cannot be told apart.
    """
    values, images = inputs.get("pixel_values"), getattr(processor, "image_processor", processor)
    if values is None:
        return {}
    if values.dim() == 2 and "pixel_values" in GRIDS and GRIDS["pixel_values"] in inputs:
        pictures = _of_patches(values, inputs[GRIDS["pixel_values"]], images)
    elif values.dim() >= 4 and values.shape[-3] == 3:
        pictures = list(values.flatten(0, -4)) if values.dim() > 4 else list(values)
    else:
        return {}
    if len(pictures) != len(modalities):
        return {}
    return {name: _coloured(picture, images) for name, picture in zip(modalities, pictures, strict=True)}


def _of_patches(patches: Tensor, grids: Tensor, images: Any) -> list[Tensor]:
    """Pictures of the patches [N, channels * frames * side * side] of one or more images, in blocks."""
    merge, side = getattr(images, "merge_size", 2), getattr(images, "patch_size", 14)
    parts = patch_order(grids, merge)
    pixels = patches.reshape(len(patches), 3, -1, side, side)[:, :, 0].split([len(order) for order, _ in parts])
    pictures = []
    for own, (order, (rows, columns)) in zip(pixels, parts, strict=True):
        whole = own[order.argsort().to(own.device)].reshape(rows, columns, 3, side, side)
        pictures.append(whole.permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side))
    return pictures


def _coloured(picture: Tensor, images: Any) -> Tensor:
    """Pixels without the normalisation, from 0 to 1."""
    picture = picture.detach().cpu().float()
    if getattr(images, "do_normalize", False):
        mean, deviation = (torch.tensor(getattr(images, name))[:, None, None] for name in ("image_mean", "image_std"))
        picture = picture * deviation + mean
    if not getattr(images, "do_rescale", True):
        picture = picture / 255
    return picture.clamp(0, 1)
