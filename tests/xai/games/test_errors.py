"""Standard errors: as wide as the estimates scatter over seeds, so that intervals hold the values as often as they say."""

from functools import partial
from typing import Any

import pytest
import torch

from xai.explainers.banzhaf import banzhaf
from xai.explainers.rise import rise
from xai.explainers.shapley import shapley

from .handmade import Handmade, Of, banzhaf_by_hand, itself, rough, shapley_by_hand, subsets

N = 8
PLAYERS = list(range(N))
ROUGH, ROUGHER = rough(20, N), rough(21, 12)


def uneven(S: frozenset[int]) -> float:
    """Large and small effects, and interactions of all orders."""
    return ROUGH(S, 0) + 4 * (0 in S) - 2 * (1 in S) * (2 in S) + len(S) ** 1.5


def rise_by_hand(value: Of, players: list[int], p: float) -> list[float]:
    means = []
    for i in players:
        others = subsets([j for j in players if j != i])
        means.append(sum(p ** len(S) * (1 - p) ** (N - 1 - len(S)) * value(S | {i}) for S in others))
    return means


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        (partial(shapley, budget=80), shapley_by_hand),
        (partial(banzhaf, budget=80, p=0.6), partial(banzhaf_by_hand, p=0.6)),
        (partial(rise, budget=80, p=0.6), partial(rise_by_hand, p=0.6)),
    ],
    ids=["shapley", "banzhaf", "rise"],
)
def test_intervals_hold_the_value(method: Any, by_hand: Any) -> None:
    recording = Handmade(lambda S, sample: uneven(S), [[1] * N]).recording
    exact = torch.tensor(by_hand(uneven, PLAYERS), dtype=torch.float64)
    scores = torch.stack([method(recording, itself, seed=seed)[0] for seed in range(120)])
    errors = torch.stack([method(recording, itself, seed=seed, errors=True)[0] for seed in range(120)])
    held = ((scores - exact).abs() < 1.96 * errors).double().mean()
    assert 0.92 < held < 0.985
    scatter = scores.std(dim=0) / errors.square().mean(dim=0).sqrt()
    assert (scatter > 0.75).all() and (scatter < 1.2).all()


@pytest.mark.parametrize("method", [shapley, banzhaf])
def test_exact_values_have_no_error(method: Any) -> None:
    recording = Handmade(lambda S, sample: uneven(S), [[1] * N]).recording
    assert not method(recording, itself, 2**N, errors=True).any()
    assert method(recording, itself, 2**N - 1, errors=True).all()


@pytest.mark.parametrize("method", [shapley, banzhaf, rise])
def test_more_masks_halve_the_errors(method: Any) -> None:
    recording = Handmade(ROUGHER, [[1] * 12]).recording
    few, many = (method(recording, itself, budget, errors=True).mean() for budget in (200, 800))
    assert 1.6 < few / many < 2.8


@pytest.mark.parametrize(
    ("method", "budget", "message"),
    [
        (shapley, 16, "7 draws for 7 numbers show no standard errors; give a larger budget"),
        (banzhaf, 9, "9 draws for 9 numbers show no standard errors"),
        (rise, 2, "2 masks, in which a player stays fewer than twice"),
    ],
)
def test_too_few_masks_are_refused(method: Any, budget: int, message: str) -> None:
    recording = Handmade(lambda S, sample: uneven(S), [[1] * N]).recording
    assert method(recording, itself, budget).isfinite().all()
    with pytest.raises(ValueError, match=message):
        method(recording, itself, budget, errors=True)
