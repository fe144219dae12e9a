"""Resamples figures that are no means over samples, such as IoU over all pixels and COCO's AP."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xai.metrics.statistics import Interval

RESAMPLES = 1000


def resampled_counts(samples: int, resamples: int = RESAMPLES, seed: int = 0) -> Float[Tensor, "_ samples"]:
    """Counts how often each sample is drawn.

    Args:
        samples: how many there are, and how many are drawn.
        resamples: how many, with replacement.
        seed: of the draw.

    Returns:
        [1 + resamples, samples], the first with each sample once.

    Example:
        >>> from xai.metrics.resampling import resampled_counts
        >>> resampled_counts(5, resamples=3).sum(dim=1).tolist()
        [5.0, 5.0, 5.0, 5.0]
    """
    rng = np.random.default_rng(seed)
    counts = (np.bincount(rng.integers(0, samples, samples), minlength=samples) for _ in range(resamples))
    return torch.from_numpy(np.stack([np.ones(samples), *counts])).double()


def interval_of(
    figures: Float[Tensor, "*axes _"], samples: int, undefined: Tensor | int = 0, confidence: float = 0.95
) -> Interval:
    """Returns figures with percentile intervals.

    Args:
        figures: [..., 1 + resamples], the first of which is that of the data itself; a resample with NaN is left out.
        samples: how many there are.
        undefined: [...], how many of them are in no figure.
        confidence: share of the resamples that the interval holds.

    Returns:
        An interval [...]; without ends where it is of one sample.

    Example:
        >>> import torch
        >>> from xai.metrics.resampling import interval_of
        >>> found = interval_of(torch.tensor([0.5, 0.25, 0.75]), samples=8, confidence=1.0)
        >>> found.mean.item(), found.low.item(), found.high.item()
        (0.5, 0.25, 0.75)
    """
    values = figures.double().cpu().numpy()
    tail = (1 - confidence) / 2
    known = np.where(np.isfinite(values).any(axis=-1, keepdims=True), values, 0.0)
    low, high = np.nanquantile(known[..., 1:], [tail, 1 - tail], axis=-1)
    missing = np.broadcast_to(torch.as_tensor(undefined).long().cpu().numpy(), values.shape[:-1])
    sized = np.isfinite(values[..., 0]) & (samples - missing > 1)
    low, high = (np.where(sized, end, np.nan) for end in (low, high))
    return Interval(*map(np.asarray, (values[..., 0], low, high, samples - missing, missing)))  # of one figure too
