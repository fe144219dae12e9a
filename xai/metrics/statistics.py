"""Computes intervals and tests over samples, for many methods at once: arrays [..., samples], seeded, pure.

A sample whose figure is not finite is undefined. It is left out of the figures of its own row alone (and of the pairs
that row is in), and counted there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
# SciPy, which nothing else here needs, has a bootstrap without undefined samples, sign flips in a Python loop, and no Holm.
DRAWN_AT_ONCE = 2**22  # numbers; bounds the memory, and is part of what a seed means


@dataclass(frozen=True, eq=False)
class Interval:
    """Means with the ends of their intervals, all [...]; NaN where no sample is defined."""

    mean: Array
    low: Array
    high: Array
    samples: NDArray[np.int64]  # how many the mean is over
    undefined: NDArray[np.int64]  # how many more were not finite


@dataclass(frozen=True, eq=False)
class Comparison:
    """Paired differences between methods, their p-values, and those corrected for the number of comparisons (Holm)."""

    difference: Interval
    p: Array
    adjusted: Array


def mean_interval(values: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Computes means with intervals by the percentile bootstrap; rows are resampled together.

    Of paired differences, `mean_interval(a - b)`, it is the paired bootstrap.

    Args:
        values: [..., samples].
        confidence: share of the resampled means that the interval holds.
        resamples: how many.
        seed: of the resampling.

    Returns:
        An interval [...]; of one sample its value without ends, as nothing tells how much others would differ.

    Source:
        Efron 1979.

    Example:
        >>> from xai.metrics.statistics import mean_interval
        >>> found = mean_interval([[1.0, 2.0, 3.0, float("nan")]])
        >>> found.mean.tolist(), found.undefined.tolist()
        ([2.0], [1])
    """
    values = np.asarray(values, dtype=np.float64)
    filled, defined = _rows(values)
    counts, shape = defined.sum(axis=1), values.shape[:-1]
    mean, low, high = (np.full(len(filled), np.nan) for _ in range(3))
    known = counts > 0
    if known.any():
        mean[known] = filled[known].sum(axis=1) / counts[known]
        means = _resampled_means(filled[known], defined[known], resamples, seed)
        tail = (1 - confidence) / 2
        low[known], high[known] = np.nanquantile(means, [tail, 1 - tail], axis=0)
        low[counts < 2] = high[counts < 2] = np.nan
    undefined = values.shape[-1] - counts
    return Interval(*(array.reshape(shape) for array in (mean, low, high, counts, undefined)))


def paired_test(differences: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Array:
    """Tests whether paired differences have mean 0: two-sided sign-flip permutation test.

    Needs no distribution but that each difference is as likely with the other sign.

    Args:
        differences: [..., samples].
        resamples: sign flips. The smallest p is 1 / (resamples + 1): take more before correcting for hundreds of comparisons.
        seed: of the flips.

    Returns:
        p-values [...]; NaN where no sample is defined.

    Example:
        >>> from xai.metrics.statistics import paired_test
        >>> paired_test([[0.0, 0.0, 0.0]]).tolist()
        [1.0]
    """
    differences = np.asarray(differences, dtype=np.float64)
    filled, defined = _rows(differences)
    observed = np.abs(filled.sum(axis=1)) - 1e-12 * np.abs(filled).sum(axis=1)  # rounding must not decide a tie
    reached = np.zeros(len(filled))

    def flip(rng: np.random.Generator, draws: int) -> None:
        signs = rng.integers(0, 2, (draws, filled.shape[1]), dtype=np.int8) * 2.0 - 1.0
        reached[:] += (np.abs(signs @ filled.T) >= observed).sum(axis=0)

    _in_chunks(flip, resamples, filled.shape[1], seed)
    p = (reached + 1) / (resamples + 1)
    return np.where(defined.any(axis=1), p, np.nan).reshape(differences.shape[:-1])


def holm(p: ArrayLike) -> Array:
    """Corrects the p-values of one family for their number.

    Args:
        p: of any shape; NaN is no comparison.

    Returns:
        The corrected p-values, of that shape.

    Source:
        Holm 1979.

    Example:
        >>> from xai.metrics.statistics import holm
        >>> holm([0.01, 0.5, 0.03]).tolist()
        [0.03, 0.5, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.size, np.nan)
    flat = p.ravel()
    order = np.argsort(flat)[: int(np.isfinite(flat).sum())]  # NaN sorts last
    steps = flat[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.reshape(p.shape)


def compare(values: ArrayLike, reference: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compares methods with one reference on the same samples; one family of comparisons.

    Args:
        values: [methods, samples].
        reference: [samples].
        resamples: of intervals and tests.
        seed: of both.

    Returns:
        Methods minus reference, [methods].

    Example:
        >>> from xai.metrics.statistics import compare
        >>> compare([[2.0, 3.0], [1.0, 1.0]], [1.0, 1.0]).difference.mean.tolist()
        [1.5, 0.0]
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    p = paired_test(differences, resamples, seed)
    return Comparison(mean_interval(differences, resamples=resamples, seed=seed), p, holm(p))


def _rows(values: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Returns [rows, samples] with zeros for what is undefined, and what is defined."""
    rows = values.reshape(-1, values.shape[-1]) if values.shape[-1] else np.zeros((int(np.prod(values.shape[:-1])), 0))
    defined = np.isfinite(rows)
    return np.where(defined, rows, 0.0), defined


def _resampled_means(filled: Array, defined: NDArray[np.bool_], resamples: int, seed: int) -> Array:
    """Returns means [resamples, rows]; NaN where a resample holds no defined sample."""
    samples, means = filled.shape[1], []

    def resample(rng: np.random.Generator, draws: int) -> None:
        drawn = rng.integers(0, samples, (draws, samples)) + samples * np.arange(draws)[:, None]
        times = np.bincount(drawn.ravel(), minlength=draws * samples).reshape(draws, samples).astype(np.float64)
        present = times @ defined.T
        means.append(np.where(present > 0, times @ filled.T / np.maximum(present, 1), np.nan))

    _in_chunks(resample, resamples, samples, seed)
    return np.concatenate(means)


def _in_chunks(work: Callable[[np.random.Generator, int], None], resamples: int, samples: int, seed: int) -> None:
    rng, at_once = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // max(samples, 1))
    for start in range(0, resamples, at_once):
        work(rng, min(at_once, resamples - start))
