"""Where relevance falls, against the truth of what decides: says nothing about how the model reached its answer.

Relevance is [..., B, *grid] with grid tokens T or patches h, w; further axes in front, such as methods, are allowed.
`truth` [B, *grid] is the share of each token that is part of the truth, 0 to 1; `valid` [B, *grid] leaves padding and
special tokens out. Every figure is per sample, [..., B], and NaN where it is undefined: no truth, or relevance that is
not finite.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from xai.metrics.ranking import expected_hits


def mass_accuracy(relevance: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the positive relevance that lies in the truth (Arras et al. 2022, eq. 1); NaN if none is positive."""
    relevance, truth, valid, defined = _flat(relevance, truth, valid)
    positive = relevance.clamp(min=0) * valid
    return _known((positive * truth).sum(dim=-1) / positive.sum(dim=-1), defined)


def rank_accuracy(relevance: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the k most relevant tokens that lies in the truth, k the size of the truth (Arras et al. 2022, eq. 2).

    Ties count with their expectation. With soft truth k is its total area, which may be a fraction, and the best that
    can be reached is `rank_accuracy(truth, truth, valid)`.
    """
    relevance, truth, valid, defined = _flat(relevance, truth, valid)
    k = truth.sum(dim=-1)
    return _known(expected_hits(relevance, truth, k, valid) / k, defined)


def chance(truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the valid tokens that is truth, [B]: what equal relevance scores in both figures."""
    _, truth, valid, defined = _flat(torch.zeros_like(truth, dtype=torch.float), truth, valid)
    return _known(truth.sum(dim=-1) / valid.sum(dim=-1), defined)


def patch_shares(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels [B, H, W] to the share of each patch that the mask covers, [B, h, w].

    Raises ValueError if patches are no whole numbers of pixels: bring the mask to the size the model sees first.
    """
    if mask.shape[-2] % grid[0] or mask.shape[-1] % grid[1]:
        raise ValueError(
            f"a mask of {mask.shape[-2]} x {mask.shape[-1]} pixels does not divide into {grid[0]} x {grid[1]} patches; "
            "resize and crop it as the model's image was"
        )
    return F.adaptive_avg_pool2d(mask.float()[:, None], grid)[:, 0]


def modality_share(relevance: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much of the positive relevance each modality [..., B, tokens] holds, [..., B]; NaN where there is none."""
    mass = {name: (scores.clamp(min=0) * valid[name]).sum(dim=-1) for name, scores in relevance.items()}
    total = torch.stack(list(mass.values())).sum(dim=0)
    return {name: part / total for name, part in mass.items()}


def _flat(relevance: Tensor, truth: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All with one axis of tokens, truth and relevance zero where not valid, and which figures [..., B] are defined."""
    valid = torch.ones_like(truth, dtype=torch.bool) if valid is None else valid.bool()
    if relevance.shape[-truth.dim() :] != truth.shape or valid.shape != truth.shape or truth.dim() < 2:
        shapes = f"relevance {list(relevance.shape)}, truth {list(truth.shape)}, valid {list(valid.shape)}"
        raise ValueError(
            f"expected relevance [..., B, *grid], truth and valid [B, *grid] of the same grid, got {shapes}"
        )
    dtype = torch.promote_types(relevance.dtype, torch.float)  # sums of halves would round
    relevance, truth = relevance.flatten(relevance.dim() - truth.dim() + 1).to(dtype), truth.flatten(1).to(dtype)
    if not ((truth >= 0) & (truth <= 1)).all():
        raise ValueError(f"truth must be shares from 0 to 1, got {float(truth.min())} to {float(truth.max())}")
    valid = valid.flatten(1)
    truth = truth * valid
    finite = (relevance.isfinite() | ~valid).all(dim=-1)
    return relevance.where(valid, 0).nan_to_num(), truth, valid, finite & (truth.sum(dim=-1) > 0)


def _known(figure: Tensor, defined: Tensor) -> Tensor:
    return figure.where(defined, torch.nan)
