"""Relevance as a soft segmentation of the image (TransAtt §4): pixel accuracy, mIoU and mAP."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SegmentationScores(NamedTuple):
    """Of each image, [..., B]; pixels are counted, so that they can be summed as the published figures are."""

    correct: Tensor
    labelled: Tensor
    intersection: Tensor  # [..., B, 2]: background, foreground
    union: Tensor
    average_precision: Tensor


def segmentation_scores(relevance: Tensor, mask: Tensor, valid: Tensor | None = None) -> SegmentationScores:
    """Maps [..., B, h, w] against masks [B, H, W]; pixels that are not `valid` [B, H, W] carry no label.

    A map is brought to the mask's size (bilinear) and to 0..1; above its mean is foreground. Average precision ranks
    both classes together, the map for the foreground and one minus it for the background. A map of one value is all
    background and ranks nothing; one that is not finite gives NaN.
    """
    heat = _heat(relevance, mask.shape[-2:])
    mask = mask.bool().flatten(1)
    labelled = torch.ones_like(mask) if valid is None else valid.bool().flatten(1)
    foreground = heat > heat.mean(dim=-1, keepdim=True)
    foreground = foreground & (heat.amax(dim=-1, keepdim=True) > heat.amin(dim=-1, keepdim=True))
    predicted = torch.stack([~foreground, foreground], dim=-2) & labelled[:, None]
    truth = torch.stack([~mask, mask], dim=-2) & labelled[:, None]
    intersection, union = (predicted & truth).sum(dim=-1).double(), (predicted | truth).sum(dim=-1).double()
    ranked = torch.cat([1 - heat, heat], dim=-1)
    precision = average_precision(ranked, truth.flatten(1), labelled.repeat(1, 2))
    correct = intersection.sum(dim=-1)
    defined = heat.isfinite().all(dim=-1)
    return SegmentationScores(
        correct.where(defined, torch.nan),
        labelled.sum(dim=-1).double().expand(correct.shape).where(defined, torch.nan),
        intersection.where(defined[..., None], torch.nan),
        union.where(defined[..., None], torch.nan),
        precision.where(defined, torch.nan),
    )


def segmentation_summary(scores: SegmentationScores, counts: Tensor | None = None) -> dict[str, Tensor]:
    """Published figures of a data set, [...], and how many images are `undefined`: they are in none of the figures.

    Accuracy and IoU are over the pixels of all images, mIoU is the mean over both classes, mAP the mean over images.
    With `counts` [resamples, B] each image counts so many times, and the figures are [..., resamples].
    """
    times = torch.ones(1, scores.correct.shape[-1]) if counts is None else counts
    times = times.to(scores.correct)

    def total(values: Tensor) -> Tensor:
        return values.nan_to_num() @ times.mT

    figures = {
        "pixel_accuracy": total(scores.correct) / total(scores.labelled),
        "miou": (total(scores.intersection.mT) / total(scores.union.mT)).mean(dim=-2),
        "map": total(scores.average_precision.double()) / total(scores.average_precision.isfinite().double()),
    }
    plain = {name: figure[..., 0] if counts is None else figure for name, figure in figures.items()}
    return {**plain, "undefined": scores.correct.isnan().sum(dim=-1)}


def average_precision(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Area under the steps of the precision-recall curve, [..., n] to [...]; equal scores are one step.

    Labels and valid are [B, n] for scores [..., B, n]. NaN without a positive label.
    """
    ranked, order = scores.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True)
    positive = (labels & valid).expand(scores.shape).gather(-1, order)
    places = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    precision = positive.cumsum(dim=-1) / places
    last_of_its_score = F.pad(ranked[..., 1:] != ranked[..., :-1], (0, 1), value=True)
    step = torch.where(last_of_its_score, places - 1, scores.shape[-1]).flip(-1).cummin(dim=-1).values.flip(-1)
    return (precision.gather(-1, step) * positive).sum(dim=-1) / positive.sum(dim=-1)


def _heat(relevance: Tensor, size: torch.Size) -> Tensor:
    """[..., B, H * W] from 0 to 1; a map of one value is a half everywhere."""
    maps = relevance.flatten(0, -3)[:, None].float()
    heat = F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False).flatten(1)
    low, high = heat.amin(dim=1, keepdim=True), heat.amax(dim=1, keepdim=True)
    scaled = ((heat - low) / (high - low)).where(high != low, 0.5)
    return scaled.unflatten(0, relevance.shape[:-2])
