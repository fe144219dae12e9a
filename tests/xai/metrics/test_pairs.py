"""Words that point at patches, and the order of tokens by their pairs."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from xai.metrics.pairs import pair_order, pointing


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_word_points_at_its_strongest_patch() -> None:
    pairs, patches = random(3, 2, 4, 6), torch.ones(2, 6, dtype=torch.bool)
    patches[:, 0] = False  # the class token
    truth = random(2, 4, 6, seed=1).abs().clamp(max=1)
    truth[0, 1] = 0
    found = pointing(pairs, truth, patches)
    for method in range(3):
        for sample in range(2):
            for word in range(4):
                row = pairs[method, sample, word].tolist()
                best = max(range(1, 6), key=row.__getitem__)
                expected = float("nan") if (sample, word) == (0, 1) else truth[sample, word, best].item()
                assert found[method, sample, word].item() == pytest.approx(expected, nan_ok=True)


def test_equal_patches_share_and_what_is_not_finite_is_undefined() -> None:
    truth, patches = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), torch.ones(1, 4, dtype=torch.bool)
    assert pointing(torch.zeros(1, 1, 4), truth, patches).item() == 0.25
    assert pointing(torch.tensor([[[1.0, torch.nan, 0.0, 0.0]]]), truth, patches).isnan().all()


def slow_order(pairs: Tensor, tokens: list[int]) -> list[int]:
    """All pairs tried for the start, then every token that is left."""

    def worth(chosen: list[int]) -> float:
        return sum(float(pairs[i, i]) for i in chosen) + sum(
            float(pairs[i, j]) for i in chosen for j in chosen if i < j
        )

    best = max((list(pair) for pair in permutations(tokens, 2)), key=worth)
    chosen = best
    while len(chosen) < len(tokens):
        chosen = [*chosen, max((t for t in tokens if t not in chosen), key=lambda t: worth([*chosen, t]))]
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_greedy(seed: int) -> None:
    pairs = random(2, 3, 6, 6, seed=seed)
    pairs = pairs + pairs.mT
    tokens = torch.ones(3, 6, dtype=torch.bool)
    tokens[1, 2] = False
    scores = pair_order(pairs, tokens)
    for method in range(2):
        for sample in range(3):
            there = tokens[sample].nonzero()[:, 0].tolist()
            order = scores[method, sample].argsort(descending=True)[: len(there)].tolist()
            expected = slow_order(pairs[method, sample], there)
            assert set(order[:2]) == set(expected[:2]) and order[2:] == expected[2:]
            assert not scores[method, sample][~tokens[sample]].any()


def test_a_sample_of_one_token_and_one_that_is_not_finite() -> None:
    pairs, tokens = torch.zeros(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    tokens[0, :2] = False
    pairs[1, 0, 1] = torch.nan
    scores = pair_order(pairs, tokens)
    assert scores[0].tolist() == [0, 0, 3] and scores[1].isnan().all()
