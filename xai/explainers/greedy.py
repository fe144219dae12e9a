"""A greedy search for the tokens that suffice and that cannot be missed, as EAGLE and its parents do it on an image."""

from collections.abc import Iterator, Sequence
from itertools import count
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.games.game import Game
from xai.games.players import Block, Players, each_game, played, settled
from xai.recording.recording import Recording, Score

APART = 1e-3  # of the largest score: by how much those of the first and the last step differ where they gained the same


def greedy(
    recording: Recording,
    target: Score,
    budget: int = 1024,
    insertion: float = 1.0,
    deletion: float = 1.0,
    block: Block | None = None,
) -> Float[Tensor, "B T"]:
    """Inserts one player after the other, each time that with which F(S) = λ₁ f(S) + λ₂ (1 - f(V without S)) is largest.

    Scores fall in the order of insertion. Their size is what F gained by a step, shared by its tokens; where a later step
    gained more for each token, both have the mean (isotonic regression), so that the sum is kept. A thousandth of the largest
    score keeps steps that gained the same apart. A search of n players asks for n (n + 1) inputs. When the next step would
    exceed the budget, the search ends, and the players that are left follow by what each would have gained in the last step.

    Args:
        recording: one forward pass, or one whose rows share its samples: each row has a search of its own.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample, shared equally by its modalities; the first step, 2 n of them, is always made.
        insertion: λ₁, what counts that the inserted suffice.
        deletion: λ₂, what counts that the rest does not do without them.
        block: patches are taken in squares of this many rows and columns, or about as many squares as "words"; None for the
            smallest squares whose search the budget allows to end.

    Returns:
        Scores [B, T]; those of a search that ended sum to (λ₁ + λ₂) (f(all) - f(none)). Negative ones made F fall.

    Raises:
        ValueError: a budget that leaves no run for a modality.

    Source:
        Chen et al. 2026 (EAGLE), whose scores have the same order.
    """
    runs = each_game(recording, target, budget)

    def solve(game: Game, players: Players) -> Iterator[tuple[int, Tensor]]:
        searches = {
            sample: [Search(number, insertion, deletion) for _ in game.rows_of(sample)]
            for sample, number in enumerate(players.counts)
            if number > 0
        }
        while asking := [(at, row) for at, own in searches.items() for row, one in enumerate(own) if one.goes_on(runs)]:
            asked = {at: [searches[at][row].masks() for of, row in asking if of == at] for at, _ in asking}
            values = dict(played(game, players, {at: torch.cat(masks) for at, masks in asked.items()}))
            parts = {at: iter(values[at].split([len(part) for part in masks])) for at, masks in asked.items()}
            for at, row in asking:
                searches[at][row].take(next(parts[at])[:, row].tolist())
        sizes = torch.ones(1, players.of.shape[1], device=players.of.device)
        for at, own in searches.items():
            rows = [search.credits(players.sums(at, sizes)[:, 0].tolist()) for search in own]
            yield at, torch.tensor(rows, dtype=torch.float64).mT

    return settled(recording, target, solve, block=_squares(recording, runs) if block is None else block)


class Search:
    """The search of one row of a sample: who was inserted, what each gained, and what is asked next."""

    def __init__(self, players: int, insertion: float, deletion: float) -> None:
        self.left, self.taken = list(range(players)), list[int]()
        self.insertion, self.deletion = insertion, deletion
        self.gains: dict[int, float] = {}  # of those inserted, and of those left what they would have gained
        self.worth: float | None = None  # F of the inserted; None before that of nobody is known
        self.spent = 0

    def goes_on(self, runs: int) -> bool:
        """Whether there is a next step, within so many runs."""
        if self.worth is None or not self.taken:
            return bool(self.left)
        return bool(self.left) and self.spent + self._cost() <= runs

    def masks(self) -> Bool[Tensor, "K n"]:
        """The inserted with each of those left, or, to begin with, nobody; then all without them."""
        inserted = torch.zeros(len(self.left) + len(self.taken), dtype=torch.bool)
        inserted[self.taken] = True
        with_one = inserted.repeat(1 if self.worth is None else len(self.left), 1)
        if self.worth is not None:
            with_one[torch.arange(len(self.left)), self.left] = True
        return torch.cat([with_one, ~with_one])

    def take(self, values: Sequence[float]) -> None:
        """Takes the values of `masks`: inserts the first of those with which F is largest."""
        half = len(values) // 2
        worths = [
            self.insertion * only + self.deletion * (1 - rest)
            for only, rest in zip(values[:half], values[half:], strict=True)
        ]
        self.spent += self._cost()
        if self.worth is None:
            self.worth = worths[0]
            return
        self.gains |= {player: worth - self.worth for player, worth in zip(self.left, worths, strict=True)}
        self.worth = max(worths)
        self.taken.append(self.left.pop(worths.index(self.worth)))

    def credits(self, sizes: Sequence[float]) -> list[float]:
        """Returns of each player what it is credited with, from how many tokens each is."""
        order = self.taken + sorted(self.left, key=lambda player: -self.gains[player])
        in_order = [sizes[player] for player in order]
        density = falling([self.gains[player] for player in order], in_order)
        middle = sum(step * size for step, size in enumerate(in_order)) / sum(in_order)
        apart = APART * max(map(abs, density)) / len(order)
        found = [0.0] * len(order)
        for step, (player, each) in enumerate(zip(order, density, strict=True)):
            found[player] = sizes[player] * (each + apart * (middle - step))
        return found

    def _cost(self) -> int:
        """Runs of the next step. That of the last player asks for the two that the search began with."""
        return 2 if self.worth is None else 2 * len(self.left) if len(self.left) > 1 else 0


def falling(gains: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Computes gains for each token that never rise, the nearest by least squares; their sum over tokens is that of the gains.

    Args:
        gains: of each step.
        sizes: how many tokens a step has.

    Source:
        Pool adjacent violators, Ayer et al. 1955.

    Example:
        >>> from xai.explainers.greedy import falling
        >>> falling([4.0, 1.0, 3.0, 0.0], [1, 1, 1, 1])
        [4.0, 2.0, 2.0, 0.0]
    """
    pools: list[tuple[float, float, int]] = []  # gain, tokens, steps
    for gain, size in zip(gains, sizes, strict=True):
        steps = 1
        while pools and pools[-1][0] / pools[-1][1] < gain / size:
            before = pools.pop()
            gain, size, steps = gain + before[0], size + before[1], steps + before[2]
        pools.append((gain, size, steps))
    return [gain / size for gain, size, steps in pools for _ in range(steps)]


def _squares(recording: Recording, runs: int) -> int:
    """The side of the smallest squares of patches that are so few that n (n + 1) runs do."""
    grids = [recording.grids[name] for name in recording.inputs if name in recording.grids]

    def ends(side: int) -> bool:
        squares = [ceil(rows / side) * ceil(columns / side) for rows, columns in grids]
        return all(n == 1 or n * (n + 1) <= runs for n in squares)

    return next(side for side in count(1) if ends(side))
