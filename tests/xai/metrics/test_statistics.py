import numpy as np
import pytest
from numpy.typing import NDArray

from xai.metrics.statistics import compare, holm, mean_interval, paired_test


def normal(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_interval_of_many_samples_is_the_normal_one() -> None:
    values = normal(2000)
    found = mean_interval(values, seed=3)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    wide = mean_interval(values, confidence=0.99)
    assert (wide.high - wide.low) / (2 * half) == pytest.approx(2.576 / 1.96, rel=0.05)


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    found = mean_interval(normal(1000, 100), resamples=1000)
    assert 0.92 < ((found.low < 0) & (found.high > 0)).mean() < 0.96


def test_a_seed_is_a_result_and_rows_do_not_touch_each_other() -> None:
    values = normal(3, 50)
    again, other = mean_interval(values, seed=1), mean_interval(values, seed=2)
    assert np.array_equal(mean_interval(values, seed=1).low, again.low)
    assert not np.array_equal(again.low, other.low)
    assert mean_interval(values[1], seed=1).low == pytest.approx(again.low[1])


def test_pairing_takes_out_what_samples_have_in_common() -> None:
    common = 10 * normal(200, seed=1)
    values = np.stack([common + 0.5, common + 0.1 * normal(200, seed=2)])
    found = compare(values, common)
    assert found.difference.low[0] == pytest.approx(0.5) and found.difference.high[0] == pytest.approx(0.5)
    assert found.p[0] < 0.001 < 0.05 < found.p[1]
    assert found.difference.low[1] < 0 < found.difference.high[1]


def test_what_is_undefined_stays_in_its_own_row() -> None:
    values = normal(3, 40)
    clean = mean_interval(values)
    values[1, :10] = np.nan
    values[2] = np.inf
    found = mean_interval(values)
    assert found.undefined.tolist() == [0, 10, 40] and found.samples.tolist() == [40, 30, 0]
    assert found.mean[0] == clean.mean[0] and found.low[0] == clean.low[0]
    assert found.mean[1] == pytest.approx(values[1, 10:].mean()) and found.low[1] < found.mean[1] < found.high[1]
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()
    p = paired_test(values)
    assert np.isnan(p).tolist() == [False, False, True]
    assert p[1] == pytest.approx(paired_test(values[1, 10:]), abs=0.02)


def test_one_defined_sample_has_a_mean_without_ends() -> None:
    values = np.full((2, 30), np.nan)
    values[0, 4] = 2.0
    values[1, :2] = 1.0, 3.0
    interval = mean_interval(values)
    assert interval.mean.tolist() == [2.0, 2.0] and interval.samples.tolist() == [1, 2]
    assert np.isnan([interval.low[0], interval.high[0]]).all() and [interval.low[1], interval.high[1]] == [1.0, 3.0]


def test_no_samples_at_all() -> None:
    found = mean_interval(np.zeros((2, 0)))
    assert np.isnan(found.mean).all() and found.samples.tolist() == [0, 0]
    assert np.isnan(paired_test(np.zeros((2, 0)))).all()


def test_p_values_of_no_difference_are_uniform() -> None:
    p = paired_test(normal(500, 30), resamples=999)
    assert [(p <= level).mean() for level in (0.05, 0.25, 0.5)] == pytest.approx([0.05, 0.25, 0.5], abs=0.06)


def test_p_value_of_differences_of_one_sign() -> None:
    """Only the two flips to all + and all - reach the observed sum: 2 of 2 ** 5."""
    assert paired_test(np.full(5, 0.1), resamples=40_000) == pytest.approx(2 / 32, abs=0.005)
    assert paired_test(np.zeros(5)) == 1


def test_holm_by_hand() -> None:
    p = [0.01, 0.04, np.nan, 0.03, 0.5]
    assert holm(p) == pytest.approx([0.04, 0.09, np.nan, 0.09, 0.5], nan_ok=True)
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm(np.full((2, 2), 0.001)) == pytest.approx(np.full((2, 2), 0.004))
