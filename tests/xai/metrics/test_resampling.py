import numpy as np
import pytest
import torch

from xai.metrics.resampling import interval_of, resampled_counts
from xai.metrics.statistics import mean_interval


def test_each_resample_draws_as_many_samples_as_there_are() -> None:
    counts = resampled_counts(5, resamples=50)
    assert counts.shape == (51, 5) and counts[0].tolist() == [1] * 5
    assert counts.sum(dim=1).eq(5).all() and counts.std(dim=1)[1:].max() > 0
    assert torch.equal(counts, resampled_counts(5, resamples=50))
    assert not torch.equal(counts, resampled_counts(5, resamples=50, seed=1))


def test_intervals_by_hand() -> None:
    figures = torch.tensor(
        [[0.5, *np.linspace(0, 1, 101)], [torch.nan] * 102, [0.2, 0.4, *[torch.nan] * 100], [0.3] * 102]
    )
    found = interval_of(figures, samples=7, undefined=torch.tensor([0, 7, 2, 6]))
    assert found.mean.tolist() == pytest.approx([0.5, np.nan, 0.2, 0.3], nan_ok=True)
    assert found.low.tolist() == pytest.approx([0.025, np.nan, 0.4, np.nan], nan_ok=True)
    assert found.high.tolist() == pytest.approx([0.975, np.nan, 0.4, np.nan], nan_ok=True)  # one sample has no ends
    assert found.samples.tolist() == [7, 0, 5, 1] and found.undefined.tolist() == [0, 7, 2, 6]


def test_of_a_mean_it_is_the_usual_bootstrap() -> None:
    values = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = interval_of(resampled_counts(40, resamples=4000) @ values / 40, 40)
    usual = mean_interval(values.numpy())
    assert float(found.mean) == pytest.approx(float(usual.mean))
    assert [float(found.low), float(found.high)] == pytest.approx([float(usual.low), float(usual.high)], abs=0.01)
