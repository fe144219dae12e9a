"""Masks of what DETR detects, from the rows of its queries, scored as COCO segmentations (GenAtt app. C, alg. 1)."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from tqdm import tqdm

from clipmapper.benchmark import published
from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Pass, Records, Task
from clipmapper.benchmark.tasks.detected import Detected, Detector, Results
from clipmapper.benchmark.tasks.folders import unique_classes
from clipmapper.benchmark.tasks.images import GROUND_TRUTH, cells, on_grid
from clipmapper.benchmark.tasks.source import PaperSettings, readable, required, spread
from clipmapper.benchmark.tasks.vision import known_adapter, placed, processor_of
from clipmapper.errors import unknown
from clipmapper.images import load_image, png
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.models.pretrained import from_transformers
from xai.metrics.coco import image_finder
from xai.metrics.detection import coco_matches, coco_summary
from xai.metrics.detection_resampling import resampled_figures
from xai.metrics.instances import read_instances
from xai.metrics.masks import require_fit
from xai.metrics.panoptic import panoptic_instances
from xai.metrics.resampling import resampled_counts
from xai.recording.reads import Needs
from xai.recording.record import record
from xai.report.data import Column, Explanation, Sample

METRICS = {"ap": "AP", "ap_medium": "AP, medium", "ap_large": "AP, large"}
METRICS |= {"ar": "AR", "ar_medium": "AR, medium", "ar_large": "AR, large"}
MOST_RESAMPLES = 200  # every class is ranked anew in each
SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("score", pa.float64()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(PaperSettings):
    """Masks of what DETR detects, from the rows of its queries (GenAtt tab. 1, app. C).

    Attributes:
        images: folder of COCO images.
        annotations: COCO instances file.
        panoptic: COCO panoptic file in its place, whose things are the objects; its PNGs lie beside it.
        threshold: queries whose likeliest class is above it are explained.
        min_iou: the smallest IoU at which a mask may count as right.
    """

    images: Path
    annotations: Path | None = None
    panoptic: Path | None = None
    threshold: float = 0.5
    min_iou: float = 0.2

    def __post_init__(self) -> None:
        if (self.annotations is None) == (self.panoptic is None):
            raise ValueError("give either --annotations or --panoptic")


class DetectionTask(Task):
    """Images with the objects that DETR finds in them.

    Args:
        settings: model and data.
        config: the settings of the benchmark.

    Raises:
        ValueError, MissingData, FileNotFoundError: the model or a file cannot be used; names it.
    """

    name, unit, batch_size = "detr", "image", 1
    order, published = ("ap",), published.DETECTION

    def __init__(self, settings: DetectionSettings, config: BenchmarkConfig) -> None:
        self.settings, self.config = settings, config
        self.truth = coco_truth(settings)
        find = image_finder(required(settings.images, "images", folder=True), settings.annotations or settings.panoptic)
        self.paths = {i: find(self.truth.imgs[i]["file_name"]) for i in sorted(self.truth.imgs)}
        self.ids = readable([list(self.paths)[i] for i in spread(len(self.paths), config.samples)], self._require_fit)
        self.detector = load_detector(settings, self.truth)
        self.module = self.detector.model
        self.facts = {"model": settings.model, "class": type(self.module).__name__, "mask": "Otsu on the query's row"}

    def __len__(self) -> int:
        return len(self.ids)

    def key(self) -> dict[str, Any]:
        return {
            "task": self.name,
            **self.settings.key(),
            "weights": weights_fingerprint(self.module),
            "images": self.ids,
        }

    def image(self, row: int) -> Image.Image:
        return load_image(self.paths[self.ids[row]])

    def batch(self, rows: Sequence[int]) -> Batch:
        images = [self.image(row) for row in rows]
        records: Records = {
            "row": list(rows),
            "name": [self.paths[self.ids[row]].name for row in rows],
            "images": images,
        }
        return Batch([self.ids[row] for row in rows], self.detector.inputs(images), records)

    def record(self, batch: Batch, reads: Needs) -> Pass:
        with record(self.module, self.detector.adapter, reads) as recorder:
            self.module(**batch.inputs)
        return Pass(recorder.recording, self.detected(batch, recorder.recording).target())

    def samples(self, batch: Batch, explained: Explained) -> Records:
        seen = self.detected(batch, explained.recorded.recording).seen
        counts = [len(s.detections.queries) for s in seen]
        return {"row": batch.records["row"], "name": batch.records["name"], "detections": counts}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        return {}

    def details(self, batch: Batch, explained: Explained, config: BenchmarkConfig) -> pa.Table:
        detected = self.detected(batch, explained.recorded.recording)
        return table(detected.results(explained, config.random_seeds))

    def corpus(
        self, values: Mapping[str, np.ndarray], details: Any, rows: Sequence[str], config: BenchmarkConfig
    ) -> dict[str, np.ndarray]:
        results: Results = {}
        for entry in details.to_pylist():
            results.setdefault(entry.pop("method"), []).append(entry)
        counts = resampled_counts(len(self.ids), min(config.resamples, MOST_RESAMPLES))
        by_row = [self._metrics(results.get(name, []), counts) for name in rows if name != RANDOM]
        random = [self._metrics(results.get(f"{RANDOM} {seed}", []), counts) for seed in range(config.random_seeds)]
        by_row.append({name: np.mean([one[name] for one in random], axis=0) for name in METRICS})
        return {name: np.stack([row[name] for row in by_row]) for name in METRICS}

    def columns(self) -> list[Column]:
        return [Column(key, label, "COCO", "higher", "", key in ("ap", "ar")) for key, label in METRICS.items()]

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        recording = explained.recorded.recording
        sure = self.detected(batch, recording).seen[place].detections
        if not len(sure.queries):
            return {}
        shown = {n: Explanation(cells(r.map("image")[place]), ()) for n, r in explained.shown.items()}
        kind = self.detector.categories[int(sure.labels[0])]
        mask = objects(self.truth, batch.ids[place], kind, batch.records["images"][place])
        return {**shown, GROUND_TRUTH: Explanation(cells(on_grid(mask, recording)), ())}

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        if not explanations:
            return None
        name, count = record["name"], record["detections"]
        return Sample(
            str(name), png(self.image(record["row"])), str(name), "", f"{count} objects", None, "", explanations
        )

    def detected(self, batch: Batch, recording: Any) -> Detected:
        threshold = self.settings.threshold
        return Detected(self.detector, recording, batch.inputs, batch.ids, batch.records["images"], threshold)

    def _require_fit(self, key: int) -> None:
        """Raises ValueError for an image that does not lie as its annotations say."""
        entry = self.truth.imgs[key]
        what = f"the entry of image {key} in {self.settings.annotations or self.settings.panoptic}"
        require_fit((entry["width"], entry["height"]), what, load_image(self.paths[key]), self.paths[key])

    def _metrics(self, results: Sequence[dict[str, Any]], counts: Tensor) -> dict[str, np.ndarray]:
        """Returns figures [1 + resamples], the data's own first; over the images for which the method has masks, else NaN."""
        unknown_of = {entry["image_id"] for entry in results if entry["segmentation"] is None}
        images = [i for i in self.ids if i not in unknown_of]
        masks = [entry for entry in results if entry["image_id"] not in unknown_of]
        if unknown_of and not masks:
            return dict.fromkeys(METRICS, np.full(len(counts), np.nan))
        evaluation = coco_matches(self.truth, masks, images, self.settings.min_iou)
        of_images = counts[1:, torch.tensor([i not in unknown_of for i in self.ids])]
        whole, resampled = coco_summary(evaluation), resampled_figures(evaluation, of_images)
        return {name: np.concatenate([[whole[name]], resampled[name].numpy()]) for name in METRICS}


def coco_truth(settings: DetectionSettings) -> COCO:
    """Returns the objects to find; raises MissingData for files that are not there, ValueError for what does not fit."""
    truth = COCO()
    if settings.annotations is not None:
        truth.dataset = read_instances(required(settings.annotations, "annotations"), tqdm.write)
    else:
        assert settings.panoptic is not None
        path = required(settings.panoptic, "panoptic")
        truth.dataset = panoptic_instances(path, required(path.with_suffix(""), "panoptic", folder=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def load_detector(settings: DetectionSettings, truth: COCO) -> Detector:
    """Loads DETR; raises ValueError for a model without COCO's classes, or that cannot be explained."""
    from transformers import AutoModelForObjectDetection

    model = from_transformers(AutoModelForObjectDetection, settings.model, "object detection")
    adapter, processor = known_adapter(model), processor_of(settings.model)
    return Detector(placed(model, settings), adapter, processor, categories(model.config.id2label, truth))


def categories(labels: Mapping[int, str], truth: COCO) -> dict[int, int]:
    """Returns COCO's category of each class of a model, by name; raises ValueError unless the model has each once."""
    classes = unique_classes(labels)
    for category in truth.cats.values():
        if category["name"] not in classes:
            error = unknown("class", category["name"], classes)
            raise ValueError(f"--model: {error}; its id2label must have COCO's names, each once")
    return {classes[category["name"]]: category["id"] for category in truth.cats.values()}


def objects(truth: COCO, image_id: int, category: int, image: Image.Image) -> Tensor:
    """Returns where the image has objects of a category, [H, W]."""
    mask = torch.zeros(image.height, image.width, dtype=torch.bool)
    for annotation in truth.imgToAnns[image_id]:
        if annotation["category_id"] == category:
            mask |= torch.from_numpy(truth.annToMask(annotation)).bool()
    return mask


def table(results: Results) -> pa.Table:
    """Returns a row for each detection of each method."""
    entries = [{"method": name, **entry} for name, some in results.items() for entry in some]
    return pa.Table.from_pylist(entries, schema=SCHEMA)
