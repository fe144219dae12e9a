"""Bootstrap intervals of figures that are no means over samples, such as IoU over all pixels and COCO's AP."""

import numpy as np
import torch
from torch import Tensor

from xai.metrics.statistics import Interval

RESAMPLES = 1000


def resampled_counts(samples: int, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each sample is drawn, [1 + resamples, samples]: first each once, then with replacement."""
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, samples, samples), minlength=samples) for _ in range(resamples))
    return torch.from_numpy(np.stack([np.ones(samples), *drawn])).double()


def interval_of(figures: Tensor, samples: int, undefined: Tensor | int = 0, confidence: float = 0.95) -> Interval:
    """Percentile intervals of figures [..., 1 + resamples], the first of which is that of the data itself.

    `undefined` of the `samples` are in no figure. A resample without a figure (NaN) is left out.
    """
    values = figures.double().cpu().numpy()
    tail = (1 - confidence) / 2
    known = np.where(np.isfinite(values).any(axis=-1, keepdims=True), values, 0.0)
    low, high = np.nanquantile(known[..., 1:], [tail, 1 - tail], axis=-1)
    low, high = (np.where(np.isfinite(values[..., 0]), end, np.nan) for end in (low, high))
    missing = np.broadcast_to(torch.as_tensor(undefined).long().cpu().numpy(), values.shape[:-1])
    return Interval(values[..., 0], low, high, samples - missing, missing)
