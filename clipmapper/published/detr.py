"""Masks of what DETR detects, from the rows of its queries, scored as COCO segmentations (GenAtt app. C, alg. 1)."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from matplotlib.figure import Figure
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from tqdm import tqdm

from clipmapper.comparison.explained import RANDOM
from clipmapper.data.images import load_image
from clipmapper.errors import unknown
from clipmapper.published.detected import Detected, Detector, Results
from clipmapper.published.explained import Methods, mean_floor, methods_of, readable, spread
from clipmapper.published.pictures import heat, outlined
from clipmapper.published.results import Found, write
from clipmapper.published.settings import Detection, there
from clipmapper.published.vision import from_transformers, known_adapter, placed, processor_of
from xai import detection
from xai.figures.geometry import Geometry
from xai.metrics.detection import coco_matches, coco_summary
from xai.metrics.detection_resampling import resampled_figures
from xai.metrics.masks import image_finder, panoptic_instances
from xai.metrics.resampling import interval_of, resampled_counts
from xai.metrics.statistics import Interval

FIGURES = ("ap", "ap_medium", "ap_large", "ar", "ar_medium", "ar_large")
RESAMPLES = 200  # every class is ranked anew in each
SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("score", pa.float64()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])),
    ]
)


def run(settings: Detection) -> None:
    """Measures, and writes the results to `settings.output`."""
    methods, truth = methods_of(settings.methods), coco_truth(settings)
    paths = image_paths(settings, truth)
    detector = load_detector(settings, truth)
    ids = readable([list(paths)[i] for i in spread(len(paths), settings.samples)], lambda i: load_image(paths[i]))
    results: Results = {}
    sure: list[int] = []
    for start in tqdm(range(0, len(ids), settings.batch_size), desc="detr", unit="batch"):
        some = ids[start : start + settings.batch_size]
        batch = Detected(detector, methods, some, [load_image(paths[i]) for i in some], settings.threshold)
        for method, found in batch.results().items():
            results.setdefault(method, []).extend(found)
        sure += [i for i, seen in zip(some, batch.seen, strict=True) if len(seen.found.queries)]
    protocol = {
        "threshold": settings.threshold,
        "min_iou": settings.min_iou,
        "mask": "Otsu on the query's row",
        "intervals": f"bootstrap over images, {RESAMPLES} resamples",
    }
    facts = {"samples": len(ids), "detections": len(results[f"{RANDOM} 0"]), "images_with_detections": len(sure)}
    figures = intervals(truth, results, ids, methods, settings.min_iou)
    shown = {i: load_image(paths[i]) for i in sure[: settings.pictures]}
    picture = drawn(detector, methods, truth, shown, settings.threshold) if shown else None
    write(Found("detr", figures, protocol, table(results), picture, facts), methods, detector.model, settings)


def coco_truth(settings: Detection) -> COCO:
    """The objects to find; raises MissingData for files that are not there."""
    if settings.annotations is not None:
        path = there(settings.annotations, "annotations")
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(path))
    assert settings.panoptic is not None
    path = there(settings.panoptic, "panoptic")
    truth = COCO()
    truth.dataset = panoptic_instances(path, there(path.with_suffix(""), "panoptic", folder=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def image_paths(settings: Detection, truth: COCO) -> dict[int, Path]:
    """By id; raises FileNotFoundError for an image that is missing."""
    find = image_finder(there(settings.images, "images", folder=True))
    return {i: find(truth.imgs[i]["file_name"]) for i in sorted(truth.imgs)}


def load_detector(settings: Detection, truth: COCO) -> Detector:
    """Raises ValueError for a model without COCO's classes, or that cannot be explained."""
    from transformers import AutoModelForObjectDetection

    model = from_transformers(AutoModelForObjectDetection, settings.model)
    adapter, processor = known_adapter(model), processor_of(settings.model)
    return Detector(placed(model, settings), adapter, processor, categories(model.config.id2label, truth))


def categories(labels: Mapping[int, str], truth: COCO) -> dict[int, int]:
    """COCO's category of each class of a model, by name; raises ValueError if the model lacks one."""
    classes = {name: int(label) for label, name in labels.items()}
    for category in truth.cats.values():
        if category["name"] not in classes:
            raise ValueError(
                f"--model: {unknown('class', category['name'], classes)}; its id2label must have COCO's names"
            )
    return {classes[category["name"]]: category["id"] for category in truth.cats.values()}


def intervals(
    truth: COCO, results: Results, images: Sequence[int], methods: Methods, min_iou: float
) -> dict[str, Interval]:
    """Figures [methods]; of random masks means over their seeds, of a method that failed NaN."""
    counts = resampled_counts(len(images), RESAMPLES)
    found = []
    for name, detections in results.items():
        evaluation = coco_matches(truth, detections, images, min_iou)
        whole, resampled = coco_summary(evaluation), resampled_figures(evaluation, counts[1:])
        figures = [torch.cat([torch.tensor([whole[key]]).double(), resampled[key]]) for key in FIGURES]
        found.append(torch.stack(figures).masked_fill(torch.tensor(name in methods.errors), torch.nan))
    by_method = mean_floor(torch.stack(found), methods)
    return {key: interval_of(by_method[:, i], len(images)) for i, key in enumerate(FIGURES)}


def table(results: Results) -> pa.Table:
    """A row for each method and detection, with its mask."""
    found = [{"method": name, **entry} for name, entries in results.items() for entry in entries]
    return pa.Table.from_pylist(found, SCHEMA)


def drawn(
    detector: Detector, methods: Methods, truth: COCO, images: Mapping[int, Image.Image], threshold: float
) -> Figure | None:
    """The surest detection of each image, over the outlines of the objects of its class."""
    batch = Detected(detector, methods, list(images), list(images.values()), threshold)
    found = [seen.found for seen in batch.seen]
    best = [int(f.scores.argmax()) for f in found]
    queries, labels = (torch.tensor([int(f[part][i]) for f, i in zip(found, best, strict=True)]) for part in (0, 1))
    kinds = [detector.categories[label] for label in labels.tolist()]
    window = (int(batch.inputs["pixel_values"].shape[2]), int(batch.inputs["pixel_values"].shape[3]))
    places = {seen.size: Geometry(seen.size, seen.unpadded, (0, 0), window) for seen in batch.seen}
    titles = [
        f"{truth.cats[kind]['name']} {float(f.scores[i]):.2f}" for kind, f, i in zip(kinds, found, best, strict=True)
    ]
    shown = [
        outlined(image, objects(truth, i, kind, image)) for (i, image), kind in zip(images.items(), kinds, strict=True)
    ]
    target = detection(queries.to(batch.recording.mask.device), labels.to(batch.recording.mask.device))
    return heat(batch.recording, methods, target, shown, places.__getitem__, titles)


def objects(truth: COCO, image_id: int, category: int, image: Image.Image) -> Tensor:
    """[H, W]: where the image has objects of a category."""
    found = torch.zeros(image.height, image.width, dtype=torch.bool)
    for annotation in truth.imgToAnns[image_id]:
        if annotation["category_id"] == category:
            found |= torch.from_numpy(truth.annToMask(annotation)).bool()
    return found
