"""Players of games, tokens or blocks of patches of one modality or of all together, and the games of all samples at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xai.games.game import Game, game_of
from xai.recording.axis import index_of
from xai.recording.recording import Recording, Score

Block = int | Literal["words"]  # rows and columns of the squares of patches; "words": about as many squares as words
Draw = Callable[[int], Bool[Tensor, "K n"]]  # from the number of players to masks
Solve = Callable[[Game, "Players"], Iterator[tuple[int, Float[Tensor, "n W"]]]]
"""From a game and its players to each sample that plays, and what its players are credited with."""
Credit = Callable[[Bool[Tensor, "K n"], Float[Tensor, "K W"], Float[Tensor, "n W"]], Float[Tensor, "n W"]]
"""From masks, values of W rows, and what is thought of the players before, to what each is credited with."""


@dataclass(frozen=True, eq=False)
class Players:
    """Who plays, in each sample.

    Attributes:
        of: [samples, T], the number of each token's player, from 0; -1 at tokens that always stay.
        counts: [samples], how many players there are.
    """

    of: Int[Tensor, "samples T"]
    counts: list[int]

    def keep(self, sample: int, masks: Bool[Tensor, "K n"]) -> Bool[Tensor, "K T"]:
        """Returns the tokens that stay under masks of a sample's players."""
        of = self.of[sample]
        return masks.to(of.device)[:, of.clamp(min=0)] | (of < 0)

    def sums(self, sample: int, scores: Float[Tensor, "R T"]) -> Float[Tensor, "n R"]:
        """Returns the sum of each player's tokens' scores."""
        of = self.of[sample]
        playing = of >= 0
        found = scores.new_zeros(self.counts[sample], len(scores))
        return found.index_add(0, of[playing], scores[:, playing].mT)

    def laid(self, sample: int, credits: Float[Tensor, "n R"]) -> Float[Tensor, "R T"]:
        """Returns each player's credit, shared equally by its tokens, on the joint axis; 0 at those that always stay."""
        of = self.of[sample]
        sizes = torch.bincount(of[of >= 0], minlength=len(credits)).clamp(min=1)
        return (credits / sizes[:, None]).mT[:, of.clamp(min=0)].masked_fill(of < 0, 0)


def players_of(recording: Recording, target: Score, together: bool = False, block: Block = 1) -> list[Players]:
    """Returns the players of each game.

    Content tokens play. Of rows that share a pass, as the words of a text do, those that a target reads itself stay: no
    hiding from attention takes them away.

    Args:
        recording: one forward pass, or one whose rows share its samples.
        target: what is explained.
        together: all modalities are one game; else each is a game of its own, in which the others stay whole.
        block: patches of a grid play in squares of this many rows and columns; "words" makes the side of the grid in squares
            the root of the number of words, rounded up.

    Raises:
        ValueError: less than one row a block, or nobody plays.
    """
    if block != "words" and block < 1:
        raise ValueError(f"block is {block}; give at least 1, or 'words'")
    content = recording.removable(target)
    parts = []
    totals = torch.stack([content[:, where].sum(dim=1) for where in recording.inputs.values()]).sum(dim=0).tolist()
    for name, where in recording.inputs.items():
        index = index_of(where).to(content.device)
        of = torch.full(content.shape, -1, device=content.device)
        for sample, playing in enumerate(content[:, index]):
            tokens, grid = index[playing], recording.grids.get(name)
            if grid is None or grid[0] * grid[1] != len(tokens):
                of[sample, tokens] = torch.arange(len(tokens), device=of.device)
            else:
                words = totals[sample] - len(tokens)  # not tokens that are made from patches
                size = block if block != "words" else ceil(grid[0] / ceil(sqrt(words))) if words else 1
                of[sample, tokens] = _blocks(grid, size).to(of.device)
        parts.append(of)
    if together:
        parts = [_joined(parts)]
    games = [Players(of, (of.amax(dim=1) + 1).tolist()) for of in parts if (of >= 0).any()]
    if not games:
        raise ValueError(
            "no token can be taken away: none is content, or the target reads all of it itself, past attention"
        )
    return games


def each_game(recording: Recording, target: Score, budget: int, together: bool = False, least: int = 1) -> int:
    """Returns the runs of each game of a sample; raises ValueError if they are fewer than `least`, or nobody plays."""
    games = len(players_of(recording, target, together))
    if budget < least * games:
        raise ValueError(f"budget is {budget}; give at least {least * games}, {least} for each of {games} games")
    return budget // games


def play(
    recording: Recording,
    target: Score,
    draw: Draw,
    credit: Credit,
    together: bool = False,
    block: Block = 1,
    prior: Float[Tensor, "R T"] | None = None,
) -> Float[Tensor, "R T"]:
    """Plays every game of every sample.

    Args:
        recording: one forward pass, or one whose rows share its samples.
        target: what is explained.
        draw: the masks of a number of players.
        credit: of the players of one sample, for all of its rows.
        together: as of `players_of`.
        block: as of `players_of`.
        prior: scores, given to `credit` as those of the players; None for zeros.

    Returns:
        Scores [R, T] in float64: each player's credit, shared equally by its tokens.
    """
    before = torch.zeros(recording.mask.shape, dtype=torch.float64) if prior is None else prior.double()

    def solve(game: Game, players: Players) -> Iterator[tuple[int, Tensor]]:
        """Credits are computed where torch has a solver for any rank: on the CPU."""
        samples = [sample for sample, count in enumerate(players.counts) if count > 0]
        drawn = {n: draw(n) for n in set(players.counts) - {0}}
        masks = {sample: drawn[players.counts[sample]] for sample in samples}
        for sample, values in played(game, players, masks):
            own = players.sums(sample, before[game.rows_of(sample)].to(players.of.device))
            yield sample, credit(masks[sample], values.cpu(), own.cpu())

    return settled(recording, target, solve, together, block)


def settled(
    recording: Recording, target: Score, solve: Solve, together: bool = False, block: Block = 1
) -> Float[Tensor, "R T"]:
    """Lays what the players of every game are credited with on the joint axis.

    Args:
        recording: as of `play`.
        target: as of `play`.
        solve: from a game and its players to each sample's number and its players' credits [n, W].
        together: as of `players_of`.
        block: as of `players_of`.

    Returns:
        Scores [R, T] in float64, as `play`.
    """
    game = game_of(recording, target)
    scores = torch.zeros(recording.mask.shape, dtype=torch.float64, device=recording.mask.device)
    for players in players_of(recording, target, together, block):
        for sample, credits in solve(game, players):
            scores[game.rows_of(sample)] += players.laid(sample, credits.to(scores.device))
    return scores * recording.mask


def played(
    game: Game, players: Players, masks: Mapping[int, Bool[Tensor, "K n"]]
) -> Iterator[tuple[int, Float[Tensor, "K W"]]]:
    """Yields each sample with the values of its masks, for its rows alone; one run of the game serves them all.

    Args:
        game: what is played.
        players: of the game's samples.
        masks: of some samples' players, any number of each.
    """
    device = players.of.device
    lengths = torch.tensor([len(part) for part in masks.values()])
    keep = torch.cat([players.keep(sample, part) for sample, part in masks.items()])
    samples = torch.tensor(list(masks)).repeat_interleave(lengths).to(device)
    for sample, values in zip(masks, game(keep, samples).split(lengths.tolist()), strict=True):
        yield sample, values[:, : len(game.rows_of(sample))]


def _blocks(grid: tuple[int, int], size: int) -> Int[Tensor, " tokens"]:
    """Returns the square of each patch."""
    rows, columns = (torch.arange(length) // size for length in grid)
    return (rows[:, None] * (int(columns[-1]) + 1) + columns).flatten()


def _joined(parts: list[Tensor]) -> Tensor:
    """Returns the players of all modalities as those of one game."""
    joined = torch.full_like(parts[0], -1)
    counts = torch.zeros(len(joined), 1, dtype=torch.long, device=joined.device)
    for of in parts:
        joined = torch.where(of >= 0, of + counts, joined)
        counts = counts + of.amax(dim=1, keepdim=True) + 1
    return joined
