"""Relevance for the predicted class as a segmentation of the image (TransAtt §4), at the size of the model's input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipmapper.benchmark import published
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Records
from clipmapper.benchmark.tasks.images import ClassifiedImages, grid_scores
from clipmapper.benchmark.tasks.source import PaperSettings, readable, required, spread
from clipmapper.images import load_image
from xai.metrics.masks import MaskedImages, as_seen, imagenet_segmentation, mask_folder
from xai.metrics.panoptic import panoptic_images
from xai.metrics.resampling import resampled_counts
from xai.metrics.segmentation import SegmentationScores, segmentation_scores, segmentation_summary
from xai.report.data import Column
from xai.targets import logits

METRICS = {
    "pixel_accuracy": ("pixel accuracy", "share of all pixels that are on the right side of the map's mean"),
    "map": ("mAP", "mean over images of the average precision of both classes' pixels"),
    "miou": ("mIoU", "mean over both classes of intersection over union, of all pixels"),
}
PARTS = ("background", "foreground")


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings(PaperSettings):
    """Relevance as a segmentation of the image (TransAtt tab. 2). Give --data, or --images with --masks or --panoptic.

    Attributes:
        data: gtsegs_ijcv.mat, ImageNet-Segmentation.
        images: folder of images.
        masks: folder of masks of the same names; labels that are not 0 are the object.
        ignore: the label in masks that says nothing; null for none, where 255 is the object.
        panoptic: COCO panoptic file, of which all things are the object; its PNGs lie beside it.
    """

    data: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    ignore: int | None = 255
    panoptic: Path | None = None

    def __post_init__(self) -> None:
        sources = [name for name in ("data", "masks", "panoptic") if getattr(self, name) is not None]
        if len(sources) != 1 or (self.images is None) != (sources == ["data"]):
            raise ValueError("give --data gtsegs_ijcv.mat, or --images with either --masks or --panoptic")


class SegmentationTask(ClassifiedImages):
    """Images with the mask of their object.

    Args:
        settings: model and data.
        config: the settings of the benchmark.

    Raises:
        ValueError, OSError: the model or a file cannot be used; names it.
    """

    name, order, published = "segmentation", ("miou",), published.SEGMENTATION

    def __init__(self, settings: SegmentationSettings, config: BenchmarkConfig) -> None:
        self.masked = masked_images(settings)
        self.usable = readable(spread(len(self.masked), config.samples), self.masked.__getitem__)
        super().__init__(settings, config)  # loads the model

    def __len__(self) -> int:
        return len(self.usable)

    def key(self) -> dict[str, Any]:
        return {**super().key(), "images": self.usable, "of images": len(self.masked)}

    def image(self, row: int) -> Image.Image:
        return self.masked[self.usable[row]].image

    def batch(self, rows: Sequence[int]) -> Batch:
        items = [self.masked[self.usable[row]] for row in rows]
        seen = [as_seen(torch.stack([i.mask, i.valid]), self.vision.geometry(i.image.size[::-1])) for i in items]
        records: Records = {"row": list(rows), "name": [item.name for item in items], "masks": seen}
        return Batch([self.usable[row] for row in rows], self.vision.pixels([item.image for item in items]), records)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        likeliest = logits(explained.recorded.recording.output).detach().argmax(dim=1).tolist()
        return {"row": batch.records["row"], "name": batch.records["name"], "predicted": likeliest}

    def ground_truth(self, batch: Batch, place: int) -> Tensor:
        return batch.records["masks"][place][0]

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        scores = grid_scores(explained.recorded.recording, explained.scores("image"))
        grid = scores.shape[-2:]
        masks, valid = torch.stack(batch.records["masks"], dim=1)

        def counts(flat: Tensor) -> dict[str, Tensor]:
            """Returns the counts behind the figures, so that they can be summed over all pixels as published ones are."""
            areas = segmentation_scores(flat.unflatten(-1, grid).cpu(), masks, valid)
            columns = {
                "correct": areas.correct,
                "labelled": areas.labelled,
                "average_precision": areas.average_precision,
            }
            for i, part in enumerate(PARTS):
                columns |= {f"intersection_{part}": areas.intersection[..., i], f"union_{part}": areas.union[..., i]}
            return columns

        return {"": Maps(scores.flatten(2), torch.tensor(batch.ids), [counts])}

    def corpus(
        self, values: Mapping[str, np.ndarray], details: Any, rows: Sequence[str], config: BenchmarkConfig
    ) -> dict[str, np.ndarray]:
        scores = scores_of(values)
        figures = segmentation_summary(scores, resampled_counts(scores.correct.shape[1], config.resamples))
        return {name: figures[name].numpy() for name in METRICS}

    def columns(self) -> list[Column]:
        return [Column(key, label, "segmentation", "higher", text, True) for key, (label, text) in METRICS.items()]


def scores_of(values: Mapping[str, np.ndarray]) -> SegmentationScores:
    """Returns the counts of all images, [rows, samples]; those of random maps are means over their seeds."""
    tensors = {name: torch.from_numpy(array).double() for name, array in values.items()}
    intersection, union = (
        torch.stack([tensors[f"{what}_{p}"] for p in PARTS], dim=-1) for what in ("intersection", "union")
    )
    return SegmentationScores(
        tensors["correct"], tensors["labelled"], intersection, union, tensors["average_precision"]
    )


def masked_images(settings: SegmentationSettings) -> MaskedImages:
    """Returns what the settings name; raises MissingData for files that are not there."""
    if settings.data is not None:
        return imagenet_segmentation(required(settings.data, "data"))
    assert settings.images is not None
    images = required(settings.images, "images", folder=True)
    if settings.masks is not None:
        return mask_folder(images, required(settings.masks, "masks", folder=True), settings.ignore, load_image)
    assert settings.panoptic is not None
    masks = required(settings.panoptic.with_suffix(""), "panoptic", folder=True)
    return panoptic_images(images, required(settings.panoptic, "panoptic"), masks, load_image)
