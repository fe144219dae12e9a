"""Classes of images: how long a classifier is right when patches are blacked out by relevance (TransAtt §4, GenAtt §5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipmapper.benchmark import published
from clipmapper.benchmark.measure import removal
from clipmapper.benchmark.page import removal_columns
from clipmapper.benchmark.progress import Progress
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Records, Scorer
from clipmapper.benchmark.tasks.folders import class_indices, labelled_images
from clipmapper.benchmark.tasks.images import ClassifiedImages, grid_scores
from clipmapper.benchmark.tasks.source import PaperSettings, readable, spread
from clipmapper.images import load_image
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import DIRECTIONS, Protocol, named
from xai.metrics.removal import blank
from xai.recording.recording import Score
from xai.report.data import Column
from xai.targets import given, logits

PROTOCOL = named("transatt", "image")
EXPLAINED = {"predicted": "for the predicted class", "target": "for the right class"}
FIGURES = {"accuracy": ("top-1 accuracy", True)}


@dataclass(frozen=True, kw_only=True)
class ClassesSettings(PaperSettings):
    """Positive and negative perturbation of a vision transformer (TransAtt tab. 1, GenAtt tab. 2).

    Attributes:
        data: folder with a folder of images for each class.
        labels: file with the folder's name of each class, one a line, in the model's order; null for the model's label
            names or WordNet ids.
        unit: what is removed: whole patches, or pixels by the relevance between the patches, as TransAtt does.
    """

    data: Path
    labels: Path | None = None
    unit: Literal["patches", "pixels"] = "patches"


class ClassesTask(ClassifiedImages):
    """Images of known classes, explained for the predicted and for the right class.

    Args:
        settings: model and data.
        config: the settings of the benchmark; its protocol is TransAtt's, as published.

    Raises:
        ValueError, MissingData, BadData: the model or a folder cannot be used; names it.
    """

    name = "imagenet"
    published = published.CLASSES
    order = ("predicted/accuracy/srg", "target/accuracy/srg")
    targets = len(EXPLAINED)

    def __init__(self, settings: ClassesSettings, config: BenchmarkConfig) -> None:
        images = labelled_images(settings.data)
        super().__init__(settings, config)
        self.unit_of_removal, self.folder = settings.unit, settings.data
        folders = sorted({name for _, name in images})
        classes = class_indices(folders, self.vision.names, self.vision.classes, settings.labels)
        usable = readable(spread(len(images), config.samples), lambda i: load_image(images[i][0]))
        self.images = [images[i] for i in usable]
        self.ids, self.labels = usable, [classes[images[i][1]] for i in usable]

    def __len__(self) -> int:
        return len(self.images)

    def key(self) -> dict[str, Any]:
        names = [path.relative_to(self.folder).as_posix() for path, _ in self.images]
        return {**super().key(), "images": names, "classes": self.labels}

    def protocols(self) -> dict[str, Protocol]:
        return dict.fromkeys(EXPLAINED, PROTOCOL) if self.config.removal else {}

    def image(self, row: int) -> Image.Image:
        return load_image(self.images[row][0])

    def batch(self, rows: Sequence[int]) -> Batch:
        records: Records = {
            "row": list(rows),
            "name": [str(self.images[row][0].relative_to(self.folder)) for row in rows],
            "label": [self.images[row][1] for row in rows],
            "class": [self.labels[row] for row in rows],
        }
        return Batch([self.ids[row] for row in rows], self.vision.pixels([self.image(row) for row in rows]), records)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        likeliest = logits(explained.recorded.recording.output).detach().argmax(dim=1).tolist()
        right = [one == other for one, other in zip(likeliest, batch.records["class"], strict=True)]
        return {**batch.records, "predicted": likeliest, "right": right, "accuracy": [float(r) for r in right]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        recording, labels = explained.recorded.recording, torch.tensor(batch.records["class"])
        right = given(labels.to(batch.inputs.device))
        ids = torch.tensor(batch.ids)
        maps = {}
        targets: tuple[Score, Score] = (explained.recorded.target, right)
        for name, target in zip(EXPLAINED, targets, strict=True):
            scores = grid_scores(recording, explained.scores("image", target))
            grid = (int(scores.shape[-2]), int(scores.shape[-1]))
            scorer = self._removal(batch, labels.to(batch.inputs.device), grid, explained.progress)
            maps[name] = Maps(scores.flatten(2), ids, [scorer] if self.config.removal else [])
        return maps

    def columns(self) -> list[Column]:
        printed = [f"{name}/accuracy/{end}" for name in EXPLAINED for end in ("srg", *DIRECTIONS)]
        by_class = {name: text.removeprefix("for the ") for name, text in EXPLAINED.items()}
        return [c for name, text in by_class.items() for c in removal_columns(name, text, FIGURES, printed)]

    def _removal(self, batch: Batch, labels: Tensor, grid: tuple[int, int], progress: Progress | None = None) -> Scorer:
        if self.unit_of_removal == "patches":
            return self._blackening(batch.inputs, labels, batch.ids, grid, progress)
        size = (int(batch.inputs.shape[2]), int(batch.inputs.shape[3]))

        def by_pixel(scores: Tensor) -> dict[str, Tensor]:  # pixels are many: one image at a time
            maps = scores.unflatten(-1, grid)
            each = []
            for i, key in enumerate(batch.ids):
                fine = F.interpolate(maps[:, i : i + 1], size=size, mode="bilinear", align_corners=False).flatten(2)
                each.append(self._blackening(batch.inputs[i : i + 1], labels[i : i + 1], [key], size, progress)(fine))
            return {metric: torch.cat([part[metric] for part in each], dim=1) for metric in each[0]}

        return by_pixel

    def _blackening(
        self, pixels: Tensor, labels: Tensor, ids: Sequence[int], grid: tuple[int, int], progress: Progress | None
    ) -> Scorer:
        """Scores maps [methods, B, rows * columns] by being right where the cells of a grid are black."""

        def predict(part: Perturbed) -> dict[str, Tensor]:
            images = pixels[part.rows]
            seen = blank(images, self.vision.black.expand_as(images), part.keep, grid)
            return {"accuracy": self.vision.logits(seen).argmax(dim=1) == labels[part.rows]}

        cells = torch.ones(len(pixels), grid[0] * grid[1], dtype=torch.bool, device=pixels.device)
        counted = (progress or Progress()).removals(predict)
        return removal(counted, PROTOCOL, cells, None, torch.tensor(ids), self.config.removal_batch)
