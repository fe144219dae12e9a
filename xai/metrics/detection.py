"""Turns the rows of queries into masks of detected objects, scored as COCO segmentations (GenAtt app. C, alg. 1)."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

AREAS = {"": "all", "_medium": "medium", "_large": "large"}
FROM_IOU = 0.2  # COCO's own evaluation starts at 0.5


class Detections(NamedTuple):
    """Queries of one image that are sure of an object."""

    queries: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]


def confident(logits: Float[Tensor, "queries classes"], threshold: float = 0.5) -> Detections:
    """Selects the queries that are sure of an object.

    Args:
        logits: [queries, classes + 1], of one image, the last class "no object".
        threshold: that the probability of the likeliest class exceeds, 0 to 1.

    Returns:
        The numbers, classes and probabilities of those queries.

    Source:
        GenAtt app. C, alg. 1.

    Example:
        >>> import torch
        >>> from xai.metrics.detection import confident
        >>> confident(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 5.0]])).queries.tolist()
        [0]
    """
    scores, labels = logits.softmax(dim=-1)[:, :-1].max(dim=-1)
    queries = (scores > threshold).nonzero()[:, 0]
    return Detections(queries, labels[queries], scores[queries])


# scikit-image, which nothing else here needs, has it for one row at a time and over bins of a histogram.
def otsu(values: Float[Tensor, "*rows n"]) -> Bool[Tensor, "*rows n"]:
    """Finds the foreground of each row by Otsu's threshold: the split in two with most variance between the parts.

    Over the values themselves, where the paper's code first rounds them to 256 levels.

    Args:
        values: [..., n].

    Returns:
        [..., n], True above the threshold; False throughout for a row of one value.

    Source:
        Otsu 1979; GenAtt app. C, alg. 1.

    Example:
        >>> import torch
        >>> from xai.metrics.detection import otsu
        >>> otsu(torch.tensor([0.1, 0.9, 0.2, 1.0])).tolist()
        [False, True, False, True]
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
    rows: Float[Tensor, "n h w"],
    seen: tuple[int, int],
    image: tuple[int, int],
    unpadded: tuple[int, int] | None = None,
    cells: tuple[int, int] | None = None,
) -> Bool[Tensor, "n H W"]:
    """Turns rows of queries into masks: Otsu's foreground, enlarged to the input (bilinear; all above zero), then to the image.

    Args:
        rows: [n, h, w].
        seen: height and width of the model's input, in pixels.
        image: those of the original image.
        unpadded: those of the part of the input that is the image; None for all of it.
        cells: rows and columns that are no padding, from which the threshold is taken; None for all.

    Returns:
        [n, *image].

    Source:
        GenAtt app. C, alg. 1, lines 6 to 10.

    Example:
        >>> import torch
        >>> from xai.metrics.detection import object_masks
        >>> object_masks(torch.tensor([[[0.0, 0.1, 0.9]]]), seen=(1, 3), image=(1, 6)).int().tolist()
        [[[0, 0, 0, 0, 1, 1]]]
    """
    down, across = cells or rows.shape[1:]
    real = rows[:, :down, :across]
    above = otsu(real.flatten(1)).reshape(real.shape).float()
    foreground = F.pad(above, (0, rows.shape[2] - across, 0, rows.shape[1] - down))[:, None]
    enlarged = F.interpolate(foreground, size=seen, mode="bilinear", align_corners=False) > 0
    height, width = unpadded or seen
    cut = enlarged[..., :height, :width].float()
    return F.interpolate(cut, size=image, mode="nearest")[:, 0] > 0


def coco_results(
    image_id: int, labels: Sequence[int], scores: Sequence[float], masks: Shaped[Tensor, "n H W"]
) -> list[dict[str, Any]]:
    """Writes one image's objects in COCO's format of results.

    Args:
        image_id: COCO's number of the image.
        labels: COCO's numbers of the objects' categories, n.
        scores: how sure the model is of each, n.
        masks: [n, H, W], of the image's own size.

    Returns:
        An entry for each object.

    Example:
        >>> import torch
        >>> from xai.metrics.detection import coco_results
        >>> coco_results(7, [3], [0.9], torch.ones(1, 2, 2, dtype=torch.bool))[0]["segmentation"]["size"]
        [2, 2]
    """
    encoded = rle.encode(np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0)))
    return [
        {
            "image_id": image_id,
            "category_id": int(label),
            "score": float(score),
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
        }
        for label, score, mask in zip(labels, scores, encoded, strict=True)
    ]


def coco_summary(evaluation: COCOeval) -> dict[str, float]:
    """Returns AP and AR of an evaluation: at most 100 objects an image, the mean over thresholds of IoU and categories.

    Args:
        evaluation: that of `coco_matches`.

    Returns:
        `ap` and `ar`, and those of medium and large objects, 0 to 1; NaN where the images have no such object.

    Source:
        GenAtt app. C, tab. 1.
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
    """Matches the objects of images with the truth, by pycocotools.

    Args:
        truth: the annotations.
        results: as of `coco_results`, of all images together.
        images: COCO's numbers of those that were explained: only they count.
        from_iou: the least IoU of a match; thresholds go on in steps of 0.05 to 0.95.

    Returns:
        pycocotools' evaluation of every image, not yet accumulated.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints, and writes into results
        objects = truth.loadRes([dict(result) for result in results]) if results else COCO()
        evaluation = COCOeval(truth, objects, "segm")
        evaluation.params.imgIds = sorted(images)
        evaluation.params.iouThrs = np.linspace(from_iou, 0.95, round((0.95 - from_iou) / 0.05) + 1)
        evaluation.evaluate()
    return evaluation


def _mean(values: np.ndarray) -> float:
    """Averages over the classes with an object; pycocotools marks others by -1."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else float("nan")
