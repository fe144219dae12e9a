"""A batch of images with what DETR detects in them, and the mask that each method makes of each detection."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.comparison.explained import RANDOM
from clipmapper.comparison.measure import RANDOM_SEEDS
from clipmapper.published.explained import Methods, floor, on_grid, recorded
from xai import Adapter, detection
from xai.figures.geometry import Size
from xai.metrics.detection import Detections, coco_results, confident, object_masks

Results = dict[str, list[dict[str, Any]]]  # in COCO's format, by method; random ones by "random 0" and so on


@dataclass(frozen=True, eq=False)
class Detector:
    model: nn.Module
    adapter: Adapter
    processor: Any
    categories: dict[int, int]  # the model's class to COCO's category

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        like = next(self.model.parameters())
        found = self.processor(list(images), return_tensors="pt")
        pixels, mask = found["pixel_values"], found["pixel_mask"]
        return {"pixel_values": pixels.to(like), "pixel_mask": mask.to(like.device)}


@dataclass(frozen=True)
class Seen:
    """One image of a batch: what was detected, and which part of the padded input is the image."""

    size: Size
    unpadded: Size
    cells: Size
    found: Detections


class Detected:
    """A batch of images, recorded once, with the queries that are sure of an object."""

    def __init__(
        self, detector: Detector, methods: Methods, ids: Sequence[int], images: Sequence[Image.Image], threshold: float
    ) -> None:
        self.detector, self.methods, self.ids = detector, methods, ids
        self.inputs = detector.inputs(images)
        self.recording = recorded(detector.model, detector.adapter, self.inputs, methods)
        logits = self.recording.output.logits.detach().float()
        self.seen = [self._seen(b, image, confident(logits[b], threshold)) for b, image in enumerate(images)]

    def results(self) -> Results:
        """The masks of all methods."""
        names = [*self.methods.names, *(f"{RANDOM} {seed}" for seed in RANDOM_SEEDS)]
        found: Results = {name: [] for name in names}
        for place, maps in enumerate(self.maps()):
            for b, seen in enumerate(self.seen):
                if place < len(seen.found.queries):
                    for name, row in zip(names, maps[:, b], strict=True):
                        found[name] += self._result(b, place, row)
        return found

    def maps(self) -> Iterator[Tensor]:
        """Of the first sure query of each image, then of the second, and so on: [methods + seeds, B, rows, columns]."""
        for place in range(max(len(seen.found.queries) for seen in self.seen)):
            queries, labels = self.targets(place)
            recording = self.recording.fresh()  # the gradients of many queries would fill the memory
            scores = self.methods.scores(recording, detection(queries, labels), "image")
            keys = torch.tensor(self.ids, device=scores.device) * self.recording.output.logits.shape[1] + queries
            yield on_grid(recording, torch.cat([scores, floor(keys, scores.shape[-1])]))

    def targets(self, place: int) -> tuple[Tensor, Tensor]:
        """Query and class [B]; an image that has not so many is asked for its first query, and not listened to."""
        pairs = []
        for seen in self.seen:
            there_is = place < len(seen.found.queries)
            pairs.append([int(t[place]) if there_is else 0 for t in (seen.found.queries, seen.found.labels)])
        queries, labels = torch.tensor(pairs, device=self.recording.mask.device).mT
        return queries, labels

    def _seen(self, b: int, image: Image.Image, found: Detections) -> Seen:
        kept = torch.tensor([int(label) in self.detector.categories for label in found.labels], dtype=torch.bool)
        of_coco = Detections(*(t.cpu()[kept] for t in found))
        mask = self.recording.mask[b, self.recording.modalities["image"]].unflatten(0, self.recording.grids["image"])
        return Seen((image.height, image.width), extent(self.inputs["pixel_mask"][b]), extent(mask), of_coco)

    def _result(self, b: int, place: int, row: Tensor) -> list[dict[str, Any]]:
        """Nothing for a row that is not finite."""
        if not row.isfinite().all():
            return []
        seen, found = self.seen[b], self.seen[b].found
        padded = (int(self.inputs["pixel_values"].shape[2]), int(self.inputs["pixel_values"].shape[3]))
        mask = object_masks(row[None], padded, seen.size, seen.unpadded, seen.cells)
        category = self.detector.categories[int(found.labels[place])]
        return coco_results(self.ids[b], [category], [float(found.scores[place])], mask)


def extent(mask: Tensor) -> Size:
    """Rows and columns of the part that is real, which begins in the corner."""
    return int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())
