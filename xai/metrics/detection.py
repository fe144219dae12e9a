"""Masks of detected objects from the rows of their queries, scored as COCO segmentations (GenAtt app. C, alg. 1)."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

AREAS = {"": "all", "_medium": "medium", "_large": "large"}
FROM_IOU = 0.2  # COCO's own evaluation starts at 0.5


class Detections(NamedTuple):
    """The queries of one image that are sure of an object."""

    queries: Tensor  # [n]
    labels: Tensor  # [n]
    scores: Tensor  # [n]


def confident(logits: Tensor, threshold: float = 0.5) -> Detections:
    """Queries whose likeliest class is above `threshold`; logits [queries, classes + 1], the last one "no object"."""
    scores, labels = logits.softmax(dim=-1)[:, :-1].max(dim=-1)
    queries = (scores > threshold).nonzero()[:, 0]
    return Detections(queries, labels[queries], scores[queries])


def otsu(values: Tensor) -> Tensor:
    """The foreground of each row [..., n] by Otsu's threshold: the split in two with most variance between the parts.

    Over the values themselves, where the paper's code first rounds them to 256 levels. A row of one value has none.
    """
    ascending = values.double().sort(dim=-1).values
    n, sums = values.shape[-1], ascending.cumsum(dim=-1)
    below = torch.arange(1, n, device=values.device)
    means = sums[..., :-1] / below, (sums[..., -1:] - sums[..., :-1]) / (n - below)
    between = below * (n - below) * (means[1] - means[0]) ** 2
    splits = ascending[..., 1:] > ascending[..., :-1]
    best = between.masked_fill(~splits, -1).argmax(dim=-1, keepdim=True)
    return (values > ascending.gather(-1, best)) & splits.any(dim=-1, keepdim=True)


def object_masks(
    rows: Tensor,
    seen: tuple[int, int],
    image: tuple[int, int],
    unpadded: tuple[int, int] | None = None,
    cells: tuple[int, int] | None = None,
) -> Tensor:
    """Rows [n, h, w] of queries to masks [n, *image] (alg. 1, lines 6-10).

    `seen` is the size of the model's input, of which `unpadded` is the image (all of it by default), `image` the
    original's size. Otsu's foreground, enlarged to the input (bilinear; all that is above zero), then to the original.
    The threshold is that of the `cells` (rows, columns) that are no padding, by default all.
    """
    down, across = cells or rows.shape[1:]
    real = rows[:, :down, :across]
    found = otsu(real.flatten(1)).reshape(real.shape).float()
    foreground = F.pad(found, (0, rows.shape[2] - across, 0, rows.shape[1] - down))[:, None]
    enlarged = F.interpolate(foreground, size=seen, mode="bilinear", align_corners=False) > 0
    height, width = unpadded or seen
    cut = enlarged[..., :height, :width].float()
    return F.interpolate(cut, size=image, mode="nearest")[:, 0] > 0


def coco_results(image_id: int, labels: Sequence[int], scores: Sequence[float], masks: Tensor) -> list[dict[str, Any]]:
    """One image's objects in COCO's results format; labels are COCO category ids, masks [n, H, W]."""
    encoded = rle.encode(np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0)))
    return [
        {
            "image_id": image_id,
            "category_id": int(label),
            "score": float(score),
            "segmentation": {"size": found["size"], "counts": found["counts"].decode()},
        }
        for label, score, found in zip(labels, scores, encoded, strict=True)
    ]


def coco_summary(evaluation: COCOeval) -> dict[str, float]:
    """Returns AP and AR of `coco_matches`' evaluation: of all, medium and large objects, at most 100 an image.

    NaN where its images have no such object.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    figures = {}
    for suffix, name in AREAS.items():
        area = evaluation.params.areaRngLbl.index(name)
        figures[f"ap{suffix}"] = _mean(evaluation.eval["precision"][..., area, -1])
        figures[f"ar{suffix}"] = _mean(evaluation.eval["recall"][..., area, -1])
    return figures


def coco_matches(
    truth: COCO, results: Sequence[dict[str, Any]], images: Sequence[int], from_iou: float = FROM_IOU
) -> COCOeval:
    """Returns pycocotools' evaluation of `images`, those that were explained, not yet accumulated.

    IoU counts from `from_iou` to 0.95 in steps of 0.05.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints, and writes into results
        found = truth.loadRes([dict(result) for result in results]) if results else COCO()
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.imgIds = sorted(images)
        evaluation.params.iouThrs = np.linspace(from_iou, 0.95, round((0.95 - from_iou) / 0.05) + 1)
        evaluation.evaluate()
    return evaluation


def _mean(values: np.ndarray) -> float:
    """pycocotools marks classes without an object by -1."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else float("nan")
