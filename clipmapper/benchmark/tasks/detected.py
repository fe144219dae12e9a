"""A batch of images with what DETR detects in them, and the mask that each method makes of each detection."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.benchmark.task import Explained
from clipmapper.benchmark.tasks.images import grid_scores
from xai import Adapter, Target, detection
from xai.figures.geometry import Size
from xai.metrics.detection import Detections, coco_results, confident, object_masks
from xai.metrics.ranking import random_relevance
from xai.recording.recording import Recording

# In COCO's format, by method; random maps by "random 0" and so on. Without a mask the segmentation is None.
Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Detector:
    """A DETR, and how it takes images.

    Attributes:
        categories: COCO's category of each of the model's classes.
    """

    model: nn.Module
    adapter: Adapter
    processor: Any
    categories: dict[int, int]

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        like = next(self.model.parameters())
        batch = self.processor(list(images), return_tensors="pt")
        return {"pixel_values": batch["pixel_values"].to(like), "pixel_mask": batch["pixel_mask"].to(like.device)}


@dataclass(frozen=True)
class Seen:
    """One image of a batch.

    Attributes:
        size: of the image.
        unpadded: which part of the padded input is the image.
        cells: which part of the encoder's grid is.
        detections: the queries that are sure of an object of COCO.
    """

    size: Size
    unpadded: Size
    cells: Size
    detections: Detections


class Detected:
    """The queries of a recorded batch that are sure of an object."""

    def __init__(
        self,
        detector: Detector,
        recording: Recording,
        inputs: dict[str, Tensor],
        ids: Sequence[int],
        images: Sequence[Image.Image],
        threshold: float,
    ) -> None:
        self.detector, self.recording, self.inputs, self.ids = detector, recording, inputs, ids
        logits = recording.output.logits.detach().float()
        self.seen = [self._seen(b, image, confident(logits[b], threshold)) for b, image in enumerate(images)]

    def target(self, place: int = 0) -> Target:
        """Returns the target of each image's n-th sure query; an image with fewer is explained for its first query."""
        pairs = []
        for seen in self.seen:
            there = place < len(seen.detections.queries)
            pairs.append([int(t[place]) if there else 0 for t in (seen.detections.queries, seen.detections.labels)])
        queries, labels = torch.tensor(pairs, device=self.recording.mask.device).mT
        return detection(queries, labels)

    def results(self, explained: Explained, seeds: int) -> Results:
        """Returns the masks of all methods and of random maps."""
        names = [*explained.methods, *(f"random {seed}" for seed in range(seeds))]
        results: Results = {name: [] for name in names}
        for place, maps in enumerate(self._maps(explained, seeds)):
            for b, seen in enumerate(self.seen):
                if place < len(seen.detections.queries):
                    for name, row in zip(names, maps[:, b], strict=True):
                        results[name].append(self._result(b, place, row))
        return results

    def _maps(self, explained: Explained, seeds: int) -> Iterator[Tensor]:
        """Yields the maps of each image's first sure query, then of the second ones: [methods + seeds, B, rows, columns]."""
        for place in range(max(len(seen.detections.queries) for seen in self.seen)):
            target = self.target(place)
            recording = self.recording.fresh()  # the gradients of many queries would fill the memory
            scores = explained.scores("image", target, recording)
            assert target.row is not None
            keys = torch.tensor(self.ids, device=scores.device) * recording.output.logits.shape[1] + target.row[1]
            noise = random_relevance(keys, scores.shape[-1], range(seeds))
            yield grid_scores(recording, torch.cat([scores, noise.to(scores)]))

    def _seen(self, b: int, image: Image.Image, sure: Detections) -> Seen:
        of_coco = torch.tensor([int(label) in self.detector.categories for label in sure.labels], dtype=torch.bool)
        detections = Detections(*(t.cpu()[of_coco] for t in sure))
        mask = self.recording.mask[b, self.recording.modalities["image"]].unflatten(0, self.recording.grids["image"])
        return Seen((image.height, image.width), extent(self.inputs["pixel_mask"][b]), extent(mask), detections)

    def _result(self, b: int, place: int, row: Tensor) -> dict[str, Any]:
        """Returns a detection; its segmentation is None where the row is not finite: the method failed, or is not measured."""
        seen, sure = self.seen[b], self.seen[b].detections
        category, score = self.detector.categories[int(sure.labels[place])], float(sure.scores[place])
        if not row.isfinite().all():
            return {"image_id": self.ids[b], "category_id": category, "score": score, "segmentation": None}
        padded = (int(self.inputs["pixel_values"].shape[2]), int(self.inputs["pixel_values"].shape[3]))
        mask = object_masks(row[None], padded, seen.size, seen.unpadded, seen.cells)
        return coco_results(self.ids[b], [category], [score], mask)[0]


def extent(mask: Tensor) -> Size:
    """Returns rows and columns of the part that is no padding, which begins in the corner."""
    return int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())
