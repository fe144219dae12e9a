"""A task over images that a classifier explains: what ImageNet's classes and segmentation share."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Pass, Task
from clipmapper.benchmark.tasks.source import PaperSettings
from clipmapper.benchmark.tasks.vision import Vision, load_classifier
from clipmapper.images import png
from clipmapper.models.fingerprint import weights_fingerprint
from xai.recording.reads import Needs
from xai.recording.record import record
from xai.recording.recording import Recording
from xai.report.data import Explanation, Sample
from xai.targets import predicted

GROUND_TRUTH = "ground truth"  # shown in the gallery as if it were a method
FINEST = 32  # rows and columns of a map in the report


class ClassifiedImages(Task):
    """Images in the order of the data, explained for the predicted class."""

    unit, batch_size = "image", 8

    def __init__(self, settings: PaperSettings, config: BenchmarkConfig) -> None:
        self.settings, self.config = settings, config
        self.vision: Vision = load_classifier(settings)
        self.module = self.vision.model
        self.facts = {"model": settings.model, "class": type(self.module).__name__}

    def key(self) -> dict[str, Any]:
        return {"task": self.name, **self.settings.key(), "weights": weights_fingerprint(self.module)}

    def record(self, batch: Batch, reads: Needs) -> Pass:
        with record(self.module, self.vision.adapter, reads) as recorder:
            self.module(**self.vision.inputs(batch.inputs))
        return Pass(recorder.recording, predicted())

    def image(self, row: int) -> Image.Image:
        """Returns the image of a row; raises BadImage."""
        raise NotImplementedError

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        shown = {n: Explanation(cells(r.map("image")[place]), ()) for n, r in explained.shown.items()}
        mask = self.ground_truth(batch, place)
        if mask is not None:
            shown[GROUND_TRUTH] = Explanation(cells(on_grid(mask, explained.recorded.recording)), ())
        return shown

    def ground_truth(self, batch: Batch, place: int) -> Tensor | None:
        """Returns the mask [H, W] of a sample as the model sees it; None where there is none."""
        return None

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        image = self.image(record["row"])
        return Sample(
            id=str(record["name"]),
            image=png(image),
            question=str(record["name"]),
            answer=str(record.get("label", "")),
            prediction=str(record["predicted"]),
            right=record.get("right"),
            answer_type="",
            explanations=explanations,
            window=self.vision.geometry((image.height, image.width)).shares(),
        )


def grid_scores(recording: Recording, scores: Tensor) -> Tensor:
    """Returns scores [..., B, tokens] of the image as those of its patches, [..., B, rows, columns]."""
    patches = ~recording.special[0, recording.modalities["image"]]
    return scores[..., patches].unflatten(-1, recording.grids["image"])


def on_grid(mask: Tensor, recording: Recording) -> Tensor:
    """Returns the share of each patch that a mask [H, W] covers."""
    return F.adaptive_avg_pool2d(mask[None, None].float(), recording.grids["image"])[0, 0]


def cells(patches: Tensor) -> tuple[tuple[float, ...], ...]:
    """Returns a map [rows, columns] as plain values, no finer than a report needs."""
    values = patches.detach().float().cpu().nan_to_num()
    if max(values.shape) > FINEST:
        values = F.adaptive_avg_pool2d(values[None], (min(FINEST, values.shape[0]), min(FINEST, values.shape[1])))[0]
    return tuple(map(tuple, values.tolist()))
