"""Compares relevance with the truth of what decides: says nothing about how the model reached its answer.

Relevance is [..., B, *grid] with grid tokens T or patches h, w; further axes in front, such as methods, are allowed.
`truth` [B, *grid] is the share of each token that is part of the truth, 0 to 1; `valid` [B, *grid] leaves padding and
special tokens out. Every figure is per sample, [..., B], and NaN where it is undefined: no truth, or relevance that is
not finite.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from xai.metrics.ranking import expected_hits

Truth = Shaped[Tensor, "B *grid"]
Valid = Shaped[Tensor, "B *grid"]


def mass_accuracy(relevance: Float[Tensor, "..."], truth: Truth, valid: Valid | None = None) -> Float[Tensor, "..."]:
    """Returns the share of the positive relevance that lies in the truth.

    Args:
        relevance: [..., B, *grid].
        truth: [B, *grid], the share of each token that is part of the truth, 0 to 1.
        valid: [B, *grid], False at padding and special tokens; None where all count.

    Returns:
        [..., B], from 0 to 1; NaN without truth, without positive relevance, and for relevance that is not finite.

    Raises:
        ValueError: shapes that do not fit, or truth outside 0 to 1.

    Source:
        Arras et al. 2022, eq. 1.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import mass_accuracy
        >>> mass_accuracy(torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[1.0, 0.0, 0.0]])).tolist()
        [0.75]
    """
    relevance, truth, valid, defined = _flat(relevance, truth, valid)
    positive = relevance.clamp(min=0) * valid
    return _known((positive * truth).sum(dim=-1) / positive.sum(dim=-1), defined)


def rank_accuracy(relevance: Float[Tensor, "..."], truth: Truth, valid: Valid | None = None) -> Float[Tensor, "..."]:
    """Returns the share of the k most relevant tokens that lies in the truth, k the size of the truth.

    Ties count with their expectation. With soft truth k is its total area, which may be a fraction, and the best that
    can be reached is `rank_accuracy(truth, truth, valid)`.

    Args:
        relevance: [..., B, *grid].
        truth: [B, *grid], the share of each token that is part of the truth, 0 to 1.
        valid: [B, *grid], False at padding and special tokens; None where all count.

    Returns:
        [..., B], from 0 to 1; NaN without truth and for relevance that is not finite.

    Raises:
        ValueError: shapes that do not fit, or truth outside 0 to 1.

    Source:
        Arras et al. 2022, eq. 2.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import rank_accuracy
        >>> rank_accuracy(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
        [0.5]
    """
    relevance, truth, valid, defined = _flat(relevance, truth, valid)
    k = truth.sum(dim=-1)
    return _known(expected_hits(relevance, truth, k, valid) / k, defined)


# For all maps at once: torchmetrics' takes six times as long as labels of one call, ten times as calls (8 maps of 224 x 224).
def average_precision(
    relevance: Float[Tensor, "..."], truth: Truth, valid: Valid | None = None
) -> Float[Tensor, "..."]:
    """Returns the average precision of the order of tokens: the mean, over the truth, of how much of what ranks as high is truth.

    A power of the relevance changes where its mass lies, and not this. Tokens of equal relevance are one step. With soft truth
    the best that can be reached is `average_precision(truth, truth, valid)`.

    Args:
        relevance: [..., B, *grid].
        truth: [B, *grid], the share of each token that is part of the truth, 0 to 1.
        valid: [B, *grid], False at padding and special tokens; None where all count.

    Returns:
        [..., B], from 0 to 1; NaN without truth and for relevance that is not finite.

    Raises:
        ValueError: shapes that do not fit, or truth outside 0 to 1.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import average_precision
        >>> truth = torch.tensor([[1.0, 1.0, 0.0]])
        >>> round(average_precision(torch.tensor([[3.0, 1.0, 2.0]]), truth).item(), 4)  # (1 / 1 + 2 / 3) / 2
        0.8333
    """
    relevance, truth, valid, defined = _flat(relevance, truth, valid)
    falling, order = relevance.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True)
    truth = truth.expand(relevance.shape).gather(-1, order)
    last = torch.searchsorted(-falling, -falling, right=True) - 1  # of the tokens that are as relevant
    precision = truth.cumsum(dim=-1).gather(-1, last) / (last + 1)
    return _known((truth * precision).sum(dim=-1) / truth.sum(dim=-1), defined)


def chance(truth: Truth, valid: Valid | None = None) -> Float[Tensor, " B"]:
    """Returns the share of the valid tokens that is truth: what equal relevance scores in both figures.

    Args:
        truth: [B, *grid], the share of each token that is part of the truth, 0 to 1.
        valid: [B, *grid], False at padding and special tokens; None where all count.

    Returns:
        [B], from 0 to 1; NaN without truth.

    Raises:
        ValueError: shapes that do not fit, or truth outside 0 to 1.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import chance
        >>> chance(torch.tensor([[1.0, 0.0, 0.0, 0.0]])).tolist()
        [0.25]
    """
    _, truth, valid, defined = _flat(torch.zeros_like(truth, dtype=torch.float), truth, valid)
    return _known(truth.sum(dim=-1) / valid.sum(dim=-1), defined)


def patch_shares(mask: Shaped[Tensor, "B H W"], grid: tuple[int, int]) -> Float[Tensor, "B h w"]:
    """Returns the share of each patch that a mask covers.

    Args:
        mask: [B, H, W], of the pixels as the model sees them.
        grid: rows and columns of patches.

    Returns:
        [B, rows, columns], from 0 to 1.

    Raises:
        ValueError: patches are no whole numbers of pixels.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import patch_shares
        >>> patch_shares(torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]), (1, 2)).tolist()
        [[[0.75, 0.0]]]
    """
    if mask.shape[-2] % grid[0] or mask.shape[-1] % grid[1]:
        raise ValueError(
            f"a mask of {mask.shape[-2]} x {mask.shape[-1]} pixels does not divide into {grid[0]} x {grid[1]} patches; "
            "resize and crop it as the model's image was"
        )
    return F.adaptive_avg_pool2d(mask.float()[:, None], grid)[:, 0]


def modality_share(
    relevance: Mapping[str, Float[Tensor, "... B _"]], valid: Mapping[str, Shaped[Tensor, "B _"]]
) -> dict[str, Float[Tensor, "... B"]]:
    """Returns how much of the positive relevance each modality holds.

    Args:
        relevance: [..., B, tokens] by modality.
        valid: [B, tokens] by modality, False at padding and special tokens.

    Returns:
        [..., B] by modality, from 0 to 1, together 1; NaN where no relevance is positive.

    Example:
        >>> import torch
        >>> from xai.metrics.localisation import modality_share
        >>> scores = {"image": torch.tensor([[2.0, 1.0]]), "text": torch.tensor([[1.0, -1.0]])}
        >>> {name: share.item() for name, share in modality_share(scores, {n: s == s for n, s in scores.items()}).items()}
        {'image': 0.75, 'text': 0.25}
    """
    mass = {name: (scores.clamp(min=0) * valid[name]).sum(dim=-1) for name, scores in relevance.items()}
    total = torch.stack(list(mass.values())).sum(dim=0)
    return {name: part / total for name, part in mass.items()}


def _flat(
    relevance: Tensor, truth: Tensor, valid: Tensor | None
) -> tuple[Float[Tensor, "... B T"], Float[Tensor, "B T"], Shaped[Tensor, "B T"], Shaped[Tensor, "... B"]]:
    """Returns all with one axis of tokens, zero where not valid, and which figures are defined."""
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
