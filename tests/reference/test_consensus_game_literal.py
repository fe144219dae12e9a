"""The consensus put to the test, derived again mask by mask with matrices written out."""

import pytest
import torch
from torch import Tensor

from xai.games.credits import ridge
from xai.games.masks import paired, with_ends


def literal(masks: Tensor, values: Tensor, expected: Tensor) -> Tensor:
    """One row: β = c q + δ, δ by the normal equations of the strength with the least generalised cross-validation."""
    count, players = masks.shape
    means = [sum(masks[k, i].item() for k in range(count)) / count for i in range(players)]
    X = torch.tensor(
        [[masks[k, i].item() - means[i] for i in range(players)] for k in range(count)], dtype=torch.float64
    )
    y = values - values.mean()
    guess = torch.stack([sum(X[k, i] * expected[i] for i in range(players)) for k in range(count)])
    c = max(0.0, float((guess * y).sum() / (guess * guess).sum()))
    left, eye = y - c * guess, torch.eye(players, dtype=torch.float64)
    powers = torch.linalg.svdvals(X) ** 2
    best, chosen = torch.inf, (torch.zeros(players), 0.0)
    for exponent in torch.linspace(-3, 3, 25, dtype=torch.float64):
        strength = powers.mean() * 10**exponent
        inverse = torch.linalg.inv(X.T @ X + strength * eye)
        hat = X @ inverse @ X.T
        freedom = float(hat.trace())
        if count - 1 - freedom <= 0.5:
            continue
        error = float(((left - hat @ left) ** 2).sum()) / (count - 1 - freedom) ** 2
        if error < best:
            best, chosen = error, (inverse @ X.T @ left, freedom)
    delta, freedom = chosen
    return torch.stack([(c * expected[i] + delta[i]) * expected[i] ** (1 - freedom / players) for i in range(players)])


@pytest.mark.parametrize(("players", "count"), [(5, 12), (9, 16), (16, 10)])
def test_ridge_mask_by_mask(players: int, count: int) -> None:
    generator = torch.Generator().manual_seed(players)
    masks = with_ends(paired(players, count, seed=1))
    values = torch.rand(len(masks), 3, generator=generator, dtype=torch.float64)
    expected = torch.rand(players, 3, generator=generator, dtype=torch.float64)
    expected = expected / expected.mean(dim=0)
    found = ridge(masks, values, expected)
    for row in range(3):
        torch.testing.assert_close(found[:, row], literal(masks, values[:, row], expected[:, row]))


def test_effects_of_a_sum_are_found_whatever_is_expected() -> None:
    """Values without noise that are a sum leave nothing open, and what is expected of the wrong players is overruled."""
    masks = with_ends(paired(6, 60, seed=0))
    effects = torch.tensor([0.5, -0.2, 0.1, 0.0, 0.3, 0.05], dtype=torch.float64)
    expected = torch.tensor([0.1, 2.0, 0.9, 1.0, 1.0, 1.0], dtype=torch.float64)[:, None]
    found = ridge(masks, (masks.double() @ effects)[:, None], expected)[:, 0]
    torch.testing.assert_close(found, effects, atol=5e-3, rtol=0)


def test_what_masks_leave_open_is_as_expected() -> None:
    """Values that have nothing to do with the players: the order is that of what is expected, of no sign but c's."""
    masks = with_ends(paired(32, 8, seed=0))
    expected = torch.linspace(0.1, 1.9, 32, dtype=torch.float64)[:, None]
    values = (masks.double() @ expected) + 0.01 * torch.rand(len(masks), 1, dtype=torch.float64)
    found = ridge(masks, values, expected)[:, 0]
    assert (found.diff() > 0).all() and (found > 0).all()


def test_a_player_that_is_alone() -> None:
    masks = torch.tensor([[False], [True]])
    found = ridge(masks, torch.tensor([[0.2], [0.9]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[0.7]], dtype=torch.float64))
