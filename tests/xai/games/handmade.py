"""Recordings of no model: what an input without some tokens says is any function of the tokens that stay."""

from collections.abc import Callable
from itertools import combinations
from math import comb
from typing import Any

import torch
from torch import Tensor

from xai.recording.axis import Positions
from xai.recording.recording import Recording

Value = Callable[[frozenset[int], int], float]  # from the places of the tokens that stay, and the sample, to a number
Of = Callable[[frozenset[int]], float]  # of the players that stay


class Handmade:
    """A recording [B, T], and `asked`, the inputs that were run but the whole ones: the places that stay, and the sample."""

    def __init__(
        self,
        value: Value,
        mask: list[list[int]],
        special: list[list[int]] | None = None,
        modalities: dict[str, Positions] | None = None,
        grids: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        self.asked: list[tuple[frozenset[int], int]] = []
        real = torch.tensor(mask).bool()
        samples, tokens = real.shape

        def run(keep: Tensor, rows: Tensor) -> Tensor:
            inputs = [(frozenset(places(row)), sample) for row, sample in zip(keep, rows.tolist(), strict=True)]
            self.asked += [one for one in inputs if len(one[0]) < tokens]
            return torch.tensor([value(*one) for one in inputs], dtype=torch.float64)

        everything = frozenset(range(tokens))
        output = torch.tensor([value(everything, sample) for sample in range(samples)], dtype=torch.float64)
        self.recording = Recording(
            layers=(),
            modalities=modalities or {"text": slice(0, tokens)},
            readout=torch.zeros(samples, tokens, dtype=torch.float64),
            mask=real,
            special=torch.zeros_like(real) if special is None else torch.tensor(special).bool(),
            grids=grids or {},
            output=output,
            without=lambda recording, target: run,
        )


def itself(outputs: Any) -> Tensor:
    """The target: the output, [B]."""
    return outputs


def places(row: Tensor) -> list[int]:
    return row.nonzero()[:, 0].tolist()


def rough(seed: int, tokens: int) -> Value:
    """A value with all orders of interaction: random for every set of tokens and every sample."""
    table = torch.randn(8, 2**tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    return lambda stay, sample: table[sample][sum(2**place for place in stay)]


def subsets(players: list[int]) -> list[frozenset[int]]:
    return [frozenset(part) for size in range(len(players) + 1) for part in combinations(players, size)]


def shapley_by_hand(value: Of, players: list[int]) -> list[float]:
    """Σ over S without i of |S|! (n - |S| - 1)! / n! (v(S ∪ i) - v(S))."""
    n, found = len(players), []
    for i in players:
        others = [j for j in players if j != i]
        found.append(sum((value(S | {i}) - value(S)) / (n * comb(n - 1, len(S))) for S in subsets(others)))
    return found


def banzhaf_by_hand(value: Of, players: list[int], p: float) -> list[float]:
    """Σ over S without i of p^|S| (1 - p)^(n - 1 - |S|) (v(S ∪ i) - v(S))."""
    n, found = len(players), []
    for i in players:
        others = [j for j in players if j != i]
        found.append(
            sum(p ** len(S) * (1 - p) ** (n - 1 - len(S)) * (value(S | {i}) - value(S)) for S in subsets(others))
        )
    return found
