"""Resamples COCO's AP and AR: images count several times or not at all, the bootstrap that pycocotools lacks."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from xai.metrics.detection import AREAS

AT_ONCE = 2**22  # numbers; bounds the memory


class Ranked(NamedTuple):
    """All detections of one category and size of objects, the surest first."""

    images: Int[Tensor, " n"]  # the place of each one's image
    right: Bool[Tensor, "thresholds n"]
    wrong: Bool[Tensor, "thresholds n"]  # neither: matched to what is ignored
    objects: Float[Tensor, " images"]  # how many there are to find


def resampled_figures(
    evaluation: COCOeval, counts: Float[Tensor, "resamples images"]
) -> dict[str, Float[Tensor, " resamples"]]:
    """Computes the figures of `detection.coco_summary` for images that count several times or not at all.

    A category that has no object in a resample is left out of it, as COCO does.

    Args:
        evaluation: that of `detection.coco_matches`.
        counts: [resamples, images], how often each image counts; images in the order of their numbers.

    Returns:
        [resamples], 0 to 1, by the figure's name.
    """
    figures: dict[str, Tensor] = {}
    counts = counts.double()
    for suffix, name in AREAS.items():
        area = evaluation.params.areaRngLbl.index(name)
        ranked = [_ranked(evaluation, category, area) for category in range(len(evaluation.params.catIds))]
        known = [_figures(r, counts, evaluation.params.recThrs) for r in ranked if r.objects.any()]
        nothing = counts.new_full((1, 2, len(counts)), torch.nan)
        ap, ar = torch.stack(known).nanmean(dim=0) if known else nothing[0]
        figures |= {f"ap{suffix}": ap, f"ar{suffix}": ar}
    return figures


def _ranked(evaluation: COCOeval, category: int, area: int) -> Ranked:
    images = len(evaluation.params.imgIds)
    start = (category * len(evaluation.params.areaRng) + area) * images
    entries = [(i, e) for i, e in enumerate(evaluation.evalImgs[start : start + images]) if e is not None]
    objects = torch.zeros(images, dtype=torch.float64)
    for i, entry in entries:
        objects[i] = int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0))
    none = np.zeros((len(evaluation.params.iouThrs), 0))
    matched, ignored = (
        np.concatenate([none, *(entry[key] for _, entry in entries)], axis=1) > 0 for key in ("dtMatches", "dtIgnore")
    )
    order = np.argsort([-score for _, e in entries for score in e["dtScores"]], kind="mergesort").astype(int)
    owners = np.array([i for i, e in entries for _ in e["dtScores"]], dtype=int)
    right, wrong = (torch.from_numpy(flags[:, order]) for flags in (matched & ~ignored, ~matched & ~ignored))
    return Ranked(torch.from_numpy(owners[order]), right, wrong, objects)


def _figures(ranked: Ranked, counts: Float[Tensor, "resamples images"], recalls: Any) -> Float[Tensor, "2 resamples"]:
    """Returns AP and AR, NaN where a resample has no object."""
    at_once = max(1, AT_ONCE // max(ranked.right.numel(), 1))
    return torch.cat([_some(ranked, part, torch.as_tensor(recalls)) for part in counts.split(at_once)], dim=1)


def _some(ranked: Ranked, counts: Tensor, recalls: Tensor) -> Tensor:
    objects = (counts @ ranked.objects)[:, None, None]
    if not len(ranked.images):
        return torch.zeros(2, len(counts), dtype=counts.dtype).where(objects[:, 0, 0] > 0, torch.nan)
    times = counts[:, None, ranked.images]
    right, wrong = ((flags * times).cumsum(dim=-1) for flags in (ranked.right, ranked.wrong))
    recall = right / objects
    precision = right / (right + wrong + np.spacing(1))
    best = precision.flip(-1).cummax(dim=-1).values.flip(-1)
    best = torch.cat([best, torch.zeros_like(objects.expand(*best.shape[:2], 1))], dim=-1)  # recalls never reached
    steps = torch.searchsorted(recall.nan_to_num().contiguous(), recalls.expand(*recall.shape[:2], -1).contiguous())
    ap, ar = best.gather(-1, steps).mean(dim=(1, 2)), recall[..., -1].mean(dim=1)
    return torch.stack([ap, ar]).where(objects[:, 0, 0] > 0, torch.nan)
