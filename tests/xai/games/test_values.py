"""Shapley and Banzhaf values: against sums over all sets of players, their axioms, and estimates from fewer masks."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from xai.explainers.banzhaf import banzhaf
from xai.explainers.occlusion import occlusion
from xai.explainers.rise import rise
from xai.explainers.shapley import mm_shap, shapley

from .handmade import Handmade, banzhaf_by_hand, itself, rough, shapley_by_hand, subsets

TWO = {"text": slice(0, 4), "image": slice(4, 9)}
MASK = [[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1, 1, 1]]  # the second text is padded
SPECIAL = [[1, 0, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0, 0]]  # a start token and a class token
PLAYING = [([1, 2, 3], [5, 6, 7, 8]), ([1, 2], [5, 6, 7, 8])]


def two(seed: int = 0) -> Handmade:
    return Handmade(rough(seed, 9), MASK, SPECIAL, TWO, {"image": (2, 2)})


def expected(by_hand: Any, seed: int, groups: Any) -> Tensor:
    """Values by hand of every sample and group of players, all other tokens staying."""
    value, found = rough(seed, 9), torch.zeros(2, 9, dtype=torch.float64)
    for sample, games in enumerate(groups):
        for players in games:
            others = frozenset(range(9)) - set(players)
            numbers = by_hand(lambda S, sample=sample, others=others: value(others | S, sample), players)
            found[sample, players] = torch.tensor(numbers, dtype=torch.float64)
    return found


def test_shapley_values_of_all_masks() -> None:
    torch.testing.assert_close(shapley(two().recording, itself, 32), expected(shapley_by_hand, 0, PLAYING))


def test_shapley_values_of_both_modalities_in_one_game() -> None:
    together = [[[*text, *image]] for text, image in PLAYING]
    found = shapley(two(1).recording, itself, 128, together=True)
    torch.testing.assert_close(found, expected(shapley_by_hand, 1, together))


@pytest.mark.parametrize("p", [0.5, 0.2, 0.9])
def test_banzhaf_values_of_all_masks(p: float) -> None:
    found = banzhaf(two(2).recording, itself, 32, p)
    torch.testing.assert_close(found, expected(partial(banzhaf_by_hand, p=p), 2, PLAYING))


def test_a_square_of_patches_is_one_player_whose_value_its_patches_share() -> None:
    value = rough(3, 9)
    handmade = Handmade(value, [[1] * 9], modalities={"image": slice(0, 9)}, grids={"image": (3, 3)})
    squares = [[0, 1, 3, 4], [2, 5], [6, 7], [8]]  # of two rows and columns; at the edges less
    numbers = shapley_by_hand(lambda S: value(frozenset(t for s in S for t in squares[s]), 0), [0, 1, 2, 3])
    found = shapley(handmade.recording, itself, 16, block=2)
    for number, square in zip(numbers, squares, strict=True):
        torch.testing.assert_close(found[0, square], torch.full((len(square),), number / len(square)).double())


def mean_and_error(method: Any, seeds: int = 40) -> tuple[Tensor, Tensor]:
    """Over seeds: the mean of estimates, and the standard error of the mean."""
    found = torch.stack([method(seed=seed)[0] for seed in range(seeds)])
    return found.mean(dim=0), found.std(dim=0) / seeds**0.5


@pytest.mark.parametrize("method", ["shapley", "banzhaf", "rise"])
def test_fewer_masks_estimate_the_values(method: str) -> None:
    """Of nine players, 512 masks: least squares have a bias of second order, which is far less than four standard errors."""
    value, players = rough(4, 9), list(range(9))
    handmade = Handmade(lambda S, sample: value(S, 0) + 3 * (0 in S) - 2 * (1 in S), [[1] * 9])

    def v(S: frozenset[int]) -> float:
        return value(S, 0) + 3 * (0 in S) - 2 * (1 in S)

    if method == "shapley":
        exact, estimate = shapley_by_hand(v, players), partial(shapley, budget=130)
    elif method == "banzhaf":
        exact, estimate = banzhaf_by_hand(v, players, 0.3), partial(banzhaf, budget=130, p=0.3)
    else:  # the mean of the value when i stays: Σ over S with i, each other token with probability p
        exact = [sum_with(v, i, players, 0.4) for i in players]
        estimate = partial(rise, budget=130, p=0.4)
    mean, error = mean_and_error(lambda seed: estimate(handmade.recording, itself, seed=seed))
    apart = (mean - torch.tensor(exact, dtype=torch.float64)).abs()
    assert (apart < 4 * error).all() and (error > 0).any()
    assert (error < 0.1).all()


def sum_with(v: Any, i: int, players: list[int], p: float) -> float:
    others = [j for j in players if j != i]
    return sum(p ** len(S) * (1 - p) ** (len(others) - len(S)) * v(S | {i}) for S in subsets(others))


@pytest.mark.parametrize("budget", [60, 256])
def test_efficiency(budget: int) -> None:
    """Shapley values sum to f(all) - f(none), also those that are estimated."""
    value = rough(5, 8)
    scores = shapley(Handmade(value, [[1] * 8, [1] * 8]).recording, itself, budget)
    total = [value(frozenset(range(8)), s) - value(frozenset(), s) for s in (0, 1)]
    torch.testing.assert_close(scores.sum(dim=1), torch.tensor(total, dtype=torch.float64))


@pytest.mark.parametrize("method", [shapley, banzhaf, occlusion])
def test_a_player_that_only_adds_its_own(method: Any) -> None:
    """A null player has 0, a dummy what it adds, whatever the others do among themselves."""
    value = rough(6, 6)

    def v(S: frozenset[int], sample: int) -> float:
        return value(S - {2, 4}, 0) + 1.5 * (4 in S)

    found = method(Handmade(v, [[1] * 6]).recording, itself)[0]
    torch.testing.assert_close(found[[2, 4]], torch.tensor([0, 1.5]).double(), atol=1e-9, rtol=0)
    assert (found[[0, 1, 3, 5]].abs() > 1e-3).all()


@pytest.mark.parametrize("method", [shapley, banzhaf, occlusion])
def test_players_that_are_alike_have_alike_values(method: Any) -> None:
    value = rough(7, 5)

    def v(S: frozenset[int], sample: int) -> float:  # which of 1 and 3 is there makes no difference
        return value(S - {1, 3}, 0) + (len(S & {1, 3}) ** 2) * value(frozenset(S - {1, 3}) | {1}, 0)

    found = method(Handmade(v, [[1] * 5]).recording, itself)[0]
    torch.testing.assert_close(found[1], found[3])
    assert (found[0] - found[1]).abs() > 1e-3


@pytest.mark.parametrize("budget", [40, 512])
@pytest.mark.parametrize("method", [shapley, banzhaf, rise, mm_shap])
def test_values_are_linear_in_the_target(method: Any, budget: int) -> None:
    """Of the same masks, also where they are drawn: seven players in one game or in two."""
    first, second = two(8), two(9)
    one, other = rough(8, 9), rough(9, 9)
    both = Handmade(lambda S, sample: 2 * one(S, sample) - 3 * other(S, sample), MASK, SPECIAL, TWO, {"image": (2, 2)})
    parts = [method(handmade.recording, itself, budget) for handmade in (first, second, both)]
    torch.testing.assert_close(parts[2], 2 * parts[0] - 3 * parts[1])


def test_of_two_players_all_values_are_known() -> None:
    v = {frozenset(): 1.0, frozenset({0}): 2.0, frozenset({1}): 5.0, frozenset({0, 1}): 10.0}
    recording = Handmade(lambda S, sample: v[S], [[1, 1]]).recording
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    close(shapley(recording, itself), torch.tensor([[3.0, 6.0]]).double())  # halves of 1 + 5, and of 4 + 8
    close(banzhaf(recording, itself, p=0.25), torch.tensor([[2.0, 5.0]]).double())  # 1 + ¼ (5 - 1), 4 + ¼ (8 - 4)
    close(occlusion(recording, itself), torch.tensor([[5.0, 8.0]]).double())


@pytest.mark.parametrize("method", [shapley, banzhaf, occlusion, mm_shap])
def test_one_player_gets_all_and_none_gets_nothing(method: Any) -> None:
    value = rough(10, 4)
    handmade = Handmade(
        value,
        [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]],
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]],  # the first has one word, the second and the third none
    )
    found = method(handmade.recording, itself)
    everything = frozenset(range(4))
    whole = torch.zeros(3, 4, dtype=torch.float64)
    whole[0, 2] = value(everything, 0) - value(everything - {2}, 0)
    torch.testing.assert_close(found, whole)


def test_words_and_squares_share_one_game() -> None:
    """MM-SHAP: three words, so two times two squares of sixteen patches; the padded sample has two words, and as many squares."""
    value = rough(11, 5)  # of the three words, and the numbers of squares that are whole

    def v(S: frozenset[int], sample: int) -> float:
        grid = [[3 + 4 * r + c for r in (a, a + 1) for c in (b, b + 1)] for a in (0, 2) for b in (0, 2)]
        squares = sum(all(t in S for t in square) for square in grid)
        return value(frozenset(S & {0, 1, 2}), sample) + squares**2 - 3 * (grid[0][0] in S) * (0 in S)

    mask = [[1, 1, 1] + [1] * 16, [1, 1, 0] + [1] * 16]
    modalities = {"text": slice(0, 3), "image": slice(3, 19)}
    handmade = Handmade(v, mask, modalities=modalities, grids={"image": (4, 4)})
    found = mm_shap(handmade.recording, itself, 256)
    image = found[:, 3:].unflatten(
        1, (2, 2, 2, 2)
    )  # rows of squares, rows in them, columns of squares, columns in them
    assert torch.equal(image, image[:, :, :1, :, :1].expand_as(image))
    assert {len(S & set(range(3, 19))) % 4 for S, _ in handmade.asked} == {0}
    everything = frozenset(range(19))
    total = [v(everything, 0) - v(frozenset(), 0), v(everything, 1) - v(frozenset({2}), 1)]
    torch.testing.assert_close(found.sum(dim=1), torch.tensor(total, dtype=torch.float64))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (shapley, {"budget": 7}, "budget is 7; give at least 8, 4 for each of 2 games"),
        (shapley, {"budget": 3, "together": True}, "budget is 3; give at least 4"),
        (banzhaf, {"p": 0.0, "budget": 8}, "p is 0.0; give a probability"),
        (banzhaf, {"budget": 1}, "budget is 1; give at least 2"),
        (rise, {"p": 1.0}, "p is 1.0; give a probability"),
        (occlusion, {"block": 0}, "block is 0; give at least 1"),
    ],
)
def test_errors(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(two().recording, itself, **options)
