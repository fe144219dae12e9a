"""Masks: what each kind is drawn by."""

from itertools import product
from typing import Any

import pytest
import torch

from xai.games.masks import (
    MOST,
    every,
    independent,
    one_out,
    paired,
    shapley_paired,
    shapley_sizes,
    with_ends,
    with_whole,
)


def test_every_mask_once() -> None:
    masks = every(4).tolist()
    assert sorted(map(tuple, masks)) == sorted(product([False, True], repeat=4))
    assert not any(masks[0]) and all(masks[-1])
    with pytest.raises(ValueError, match=r"21 players have 2\^21 masks; give at most 20"):
        every(MOST + 1)


def test_one_out_and_ends() -> None:
    assert one_out(3).tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert with_whole(one_out(2)).tolist() == [[True, True], [False, True], [True, False]]
    assert with_ends(one_out(2)).tolist() == [[True, True], [False, False], [False, True], [True, False]]


@pytest.mark.parametrize(("players", "count"), [(2, 2), (7, 20), (9, 13), (50, 64)])
def test_pairs_are_complements_whose_sizes_run_evenly(players: int, count: int) -> None:
    masks = paired(players, count, seed=3)
    assert masks.shape == (count // 2 * 2, players)
    assert torch.equal(masks[0::2], ~masks[1::2])
    sizes = masks[0::2].sum(dim=1)
    assert sizes[0] == 1 and (len(sizes) == 1 or sizes[-1] == players - 1)
    steps = sizes.diff().tolist()
    assert not steps or (min(steps) >= 0 and max(steps) - min(steps) <= 1)


@pytest.mark.parametrize("draw", [paired, shapley_paired])
def test_every_player_is_as_likely(draw: Any) -> None:
    masks = torch.cat([draw(6, 200, seed)[0::2] for seed in range(20)]).double()
    deviation = (masks.mean(dim=0) - masks.mean()).abs()
    assert (deviation < 4 * 0.5 / len(masks) ** 0.5).all()
    sizes = masks.sum(dim=1)
    together = (masks.mT @ masks / len(masks))[~torch.eye(6, dtype=torch.bool)]  # of two players: s (s - 1) / (6 · 5)
    assert ((together - (sizes * (sizes - 1) / 30).mean()).abs() < 0.05).all()


def test_sizes_of_the_shapley_kernel() -> None:
    """Of four players: 1 / 3, 1 / 4, 1 / 3, which sum to 11 / 12."""
    torch.testing.assert_close(shapley_sizes(4), torch.tensor([4 / 11, 3 / 11, 4 / 11]).double())
    masks = shapley_paired(4, 40_000, seed=0)
    assert torch.equal(masks[0::2], ~masks[1::2])
    shares = torch.bincount(masks[0::2].sum(dim=1), minlength=5).double() / 20_000
    torch.testing.assert_close(shares, torch.tensor([0, 4 / 11, 3 / 11, 4 / 11, 0]).double(), atol=0.015, rtol=0)


def test_players_stay_independently() -> None:
    masks = independent(5, 20_000, 0.3, seed=1).double()
    torch.testing.assert_close(masks.mean(dim=0), torch.full((5,), 0.3).double(), atol=0.015, rtol=0)
    together = (masks.mT @ masks / len(masks))[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(together, torch.full((20,), 0.09).double(), atol=0.015, rtol=0)


def test_a_draw_depends_on_the_number_of_players_and_the_seed_alone() -> None:
    for draw in (paired, shapley_paired, lambda n, k, seed: independent(n, k, 0.5, seed)):
        one = draw(8, 64, 5)
        torch.manual_seed(99)
        assert torch.equal(draw(8, 64, 5), one)
        assert not torch.equal(draw(8, 64, 6), one)
