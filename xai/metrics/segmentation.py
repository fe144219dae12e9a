"""Scores relevance as a soft segmentation of the image (TransAtt §4): pixel accuracy, mIoU and mAP."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from xai.metrics.localisation import average_precision


class SegmentationScores(NamedTuple):
    """Counts of pixels of each image, so that they can be summed as the published figures are; NaN for an undefined map."""

    correct: Float[Tensor, "*methods B"]
    labelled: Float[Tensor, "*methods B"]
    intersection: Float[Tensor, "*methods B 2"]  # background, foreground
    union: Float[Tensor, "*methods B 2"]
    average_precision: Float[Tensor, "*methods B"]


def segmentation_scores(
    relevance: Float[Tensor, "*methods B h w"],
    mask: Shaped[Tensor, "B H W"],
    valid: Shaped[Tensor, "B H W"] | None = None,
) -> SegmentationScores:
    """Compares maps with masks of objects.

    A map is brought to the mask's size (bilinear) and to 0..1; above its mean is foreground. Average precision ranks
    both classes together, the map for the foreground and one minus it for the background. A map of one value is all
    background and ranks nothing; one that is not finite gives NaN.

    Args:
        relevance: [..., B, h, w].
        mask: [B, H, W], True on the object.
        valid: [B, H, W], False at pixels without a label; None where all have one.

    Returns:
        Counts of pixels and the average precision of each image.

    Source:
        TransAtt §4.

    Example:
        >>> import torch
        >>> from xai.metrics.segmentation import segmentation_scores
        >>> segmentation_scores(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, False]]])).correct.tolist()
        [2.0]
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


def segmentation_summary(
    scores: SegmentationScores, counts: Float[Tensor, "resamples B"] | None = None
) -> dict[str, Shaped[Tensor, "..."]]:
    """Computes the published figures of a data set.

    Args:
        scores: of its images, [..., B].
        counts: [resamples, B], how often each image counts in each resample; None for the data set as it is.

    Returns:
        [...], with `counts` [..., resamples]: `pixel_accuracy` and `miou` (the mean over both classes) over the pixels of all
        images, `map` the mean over images; and [...] how many images are `undefined`: they are in none of the figures.

    Source:
        TransAtt §4.

    Example:
        >>> import torch
        >>> from xai.metrics.segmentation import segmentation_scores, segmentation_summary
        >>> scores = segmentation_scores(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, True]]]))
        >>> {name: figure.item() for name, figure in segmentation_summary(scores).items() if name != "map"}
        {'pixel_accuracy': 0.5, 'miou': 0.25, 'undefined': 0}
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


def _heat(relevance: Float[Tensor, "*methods B h w"], size: torch.Size) -> Float[Tensor, "*methods B pixels"]:
    """Enlarges maps and brings them to 0..1; a map of one value is a half everywhere."""
    maps = relevance.flatten(0, -3)[:, None].float()
    heat = F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False).flatten(1)
    low, high = heat.amin(dim=1, keepdim=True), heat.amax(dim=1, keepdim=True)
    scaled = ((heat - low) / (high - low)).where(high != low, 0.5)
    return scaled.unflatten(0, relevance.shape[:-2])
