"""Relevance for the predicted class as a segmentation of the image (TransAtt §4), at the size of the model's input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from clipmapper.published.explained import Methods, floor, mean_floor, methods_of, on_grid, readable, recorded, spread
from clipmapper.published.pictures import classified
from clipmapper.published.results import Found, rows, write
from clipmapper.published.settings import Segmentation, there
from clipmapper.published.vision import Vision, load_classifier
from xai.metrics.masks import Masked, MaskedImages, as_seen, imagenet_segmentation, mask_folder, panoptic_images
from xai.metrics.resampling import RESAMPLES, interval_of, resampled_counts
from xai.metrics.segmentation import SegmentationScores, segmentation_scores, segmentation_summary
from xai.metrics.statistics import Interval
from xai.targets import predicted

FIGURES = ("pixel_accuracy", "map", "miou")


def run(settings: Segmentation) -> None:
    """Measures, and writes the results to `settings.output`."""
    methods, images = methods_of(settings.methods), masked_images(settings)
    vision = load_classifier(settings)
    chosen, parts, names = readable(spread(len(images), settings.samples), images.__getitem__), [], []
    for start in tqdm(range(0, len(chosen), settings.batch_size), desc="segmentation", unit="batch"):
        some = chosen[start : start + settings.batch_size]
        batch = [images[i] for i in some]
        names += [item.name for item in batch]
        parts.append(measure(vision, batch, some, methods))
    scores = joined(parts)
    shown = [images[i] for i in chosen[: settings.pictures]]
    titles, masks = [item.name for item in shown], [item.mask for item in shown]
    picture = classified(vision, methods, [item.image for item in shown], titles, masks)
    protocol: dict[str, Any] = {
        "explained": "predicted class",
        "threshold": "mean of the map",
        "size": "the model's input; masks by nearest pixels",
        "intervals": f"bootstrap over images, {RESAMPLES} resamples",
    }
    table = rows(methods, {"image": names}, per_image(scores, methods))
    found = Found("segmentation", intervals(scores, methods), protocol, table, picture, {"samples": len(names)})
    write(found, methods, vision.model, settings)


def masked_images(settings: Segmentation) -> MaskedImages:
    """What the settings name; raises MissingData for files that are not there."""
    if settings.data is not None:
        return imagenet_segmentation(there(settings.data, "data"))
    assert settings.images is not None
    images = there(settings.images, "images", folder=True)
    if settings.masks is not None:
        return mask_folder(images, there(settings.masks, "masks", folder=True), settings.ignore)
    assert settings.panoptic is not None
    masks = there(settings.panoptic.with_suffix(""), "panoptic", folder=True)
    return panoptic_images(images, there(settings.panoptic, "panoptic"), masks)


def measure(vision: Vision, batch: Sequence[Masked], ids: Sequence[int], methods: Methods) -> SegmentationScores:
    """Of methods, and of random maps for each seed, [methods + seeds, B]."""
    recording = recorded(vision.model, vision.adapter, vision.inputs(vision.pixels([i.image for i in batch])), methods)
    maps = on_grid(recording, methods.scores(recording, predicted(), "image"))
    random = floor(torch.tensor(ids, device=maps.device), maps[0, 0].numel()).unflatten(-1, maps.shape[-2:])
    seen = [as_seen(torch.stack([i.mask, i.valid]), vision.geometry(i.image.size[::-1])) for i in batch]
    masks, valid = torch.stack(seen, dim=1)
    return segmentation_scores(torch.cat([maps, random]).cpu(), masks, valid)


def joined(parts: Sequence[SegmentationScores]) -> SegmentationScores:
    """All images, [methods + seeds, samples]."""
    return SegmentationScores(*(torch.cat(fields, dim=1) for fields in zip(*parts, strict=True)))


def intervals(scores: SegmentationScores, methods: Methods) -> dict[str, Interval]:
    """Figures [methods]; those of random maps are means over their seeds."""
    samples = scores.correct.shape[1]
    figures = segmentation_summary(scores, resampled_counts(samples))
    missing = mean_floor(figures["undefined"].double(), methods)
    return {name: interval_of(mean_floor(figures[name], methods), samples, missing) for name in FIGURES}


def per_image(scores: SegmentationScores, methods: Methods) -> dict[str, np.ndarray]:
    """The counts that the figures are made of, [methods, samples]; of random maps their means."""
    columns = {"correct": scores.correct, "labelled": scores.labelled, "average_precision": scores.average_precision}
    for i, part in enumerate(("background", "foreground")):
        columns |= {f"intersection/{part}": scores.intersection[..., i], f"union/{part}": scores.union[..., i]}
    return {name: mean_floor(values, methods).numpy() for name, values in columns.items()}
