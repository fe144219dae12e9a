"""A few samples with the heat of every method beside the image, and the outline of what is to be found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from clipmapper.published.explained import Methods, recorded
from clipmapper.published.vision import Vision
from xai.explain import explain_each
from xai.figures.geometry import Geometry, Size
from xai.figures.render import compare, pixels
from xai.recording.recording import Recording, Score
from xai.targets import predicted

WIDTH = 0.008  # of an outline, as a share of the image's height


def classified(
    vision: Vision, methods: Methods, images: Sequence[Image.Image], titles: Sequence[str], masks: Sequence[Tensor] = ()
) -> Figure | None:
    """Explained for the class that the model predicts; `masks` [H, W] are outlined."""
    if not images:
        return None
    recording = recorded(vision.model, vision.adapter, vision.inputs(vision.pixels(images)), methods)
    shown = [outlined(i, m) for i, m in zip(images, masks, strict=True)] if masks else images
    return heat(recording, methods, predicted(), shown, vision.geometry, titles)


def heat(
    recording: Recording,
    methods: Methods,
    target: Score,
    images: Sequence[Any],
    geometry: Callable[[Size], Geometry],
    titles: Sequence[str],
) -> Figure | None:
    """A row for each image; None if no method gave relevance."""
    found, errors = explain_each(recording, methods.names, target)
    shown = [replace(relevance, target=None) for name, relevance in found.items() if name not in errors]
    return compare(shown, images, geometry, titles) if shown else None


def outlined(image: Image.Image, mask: Tensor) -> np.ndarray:
    """[H, W, 3] with the edge of the mask [H, W] in black."""
    reach = max(1, round(WIDTH * image.height))
    inside = mask.float()[None, None]
    padded = F.pad(inside, (reach,) * 4, mode="replicate")
    grown = F.max_pool2d(padded, 2 * reach + 1, stride=1) > inside
    return np.where(grown[0, 0].numpy()[..., None], 0.0, pixels(image))
