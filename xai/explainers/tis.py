"""Transformer Input Sampling: RISE whose masks are where the channels of the model's own states are large."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.games.credits import mean_credits
from xai.games.game import Game
from xai.games.players import Block, Players, each_game, played, settled
from xai.recording.recording import Recording, Score

ROUNDS = 20  # of k-means at most


def tis(
    recording: Recording, target: Score, budget: int = 512, share: float = 0.5, block: Block = 1, seed: int = 0
) -> Float[Tensor, "B T"]:
    """Computes s_i = Σ f(M) M_i / Σ M_i over masks that are clusters of channels.

    Every channel of every layer's state is a map over the tokens. They are clustered by k-means into as many maps as there
    are runs, of which each keeps its largest tokens. A state is what an attention's skip connection carries: the paper takes
    the blocks' outputs, which are the same but for the first, the embedding, and for the last, which no attention reads.
    Each modality has masks of its own, from its own states; few words have few masks that differ, and each runs once.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: masks of a sample, shared equally by its modalities; fewer where there are fewer channels.
        share: of the tokens that a mask keeps.
        block: patches are taken away in squares of this many rows and columns, whose channels are the patches' mean.
        seed: of the channels that the clusters start at.

    Returns:
        Scores [B, T], in the target's unit; as of `rise`, only their order and differences tell something.

    Raises:
        ValueError: a share that is not between 0 and 1, a budget that leaves no run for a modality, or a modality whose tokens
            are never an attention's queries, so that there are no states of them.

    Source:
        Englebert et al. 2023.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; give one between 0 and 1")
    count = each_game(recording, target, budget)

    def solve(game: Game, players: Players) -> Iterator[tuple[int, Tensor]]:
        masks = {
            sample: largest(clusters(channels(recording, game, players, sample), count, seed), share)
            for sample, number in enumerate(players.counts)
            if number > 0
        }
        for sample, values in played(game, players, masks):
            yield sample, mean_credits(masks[sample].to(values.device), values)

    return settled(recording, target, solve, block=block)


def channels(recording: Recording, game: Game, players: Players, sample: int) -> Float[Tensor, "C n"]:
    """Returns the channels of all states of a sample's players, each a row."""
    of = players.of[sample].to(recording.mask.device)
    first, last = (of >= 0).nonzero()[[0, -1], 0].tolist()
    row, found = int(game.rows_of(sample)[0]), []
    for event in recording.events:
        if event.queries.start <= first and last < event.queries.stop:
            state = event.Y[row].detach().to(torch.promote_types(event.Y.dtype, torch.float32))
            laid = state.new_zeros(state.shape[-1], len(of))
            laid[:, event.queries] = state.mT
            found.append(players.sums(sample, laid))
    if not found:
        raise ValueError("no attention has the tokens of a modality among its queries: there are no states to cluster")
    sizes = players.sums(sample, torch.ones_like(laid[:1]))
    return (torch.cat(found, dim=1) / sizes).mT


def clusters(maps: Float[Tensor, "C n"], count: int, seed: int) -> Float[Tensor, "k n"]:
    """Returns the centres of k-means, k = `count` or C if that is less; the same for the same seed."""
    if len(maps) <= count:
        return maps
    start = torch.randperm(len(maps), generator=torch.Generator().manual_seed(seed))[:count]
    centres, before = maps[start.to(maps.device)], None
    for _ in range(ROUNDS):
        nearest = (centres.square().sum(dim=1) - 2 * maps @ centres.mT).argmin(dim=1)
        if before is not None and torch.equal(nearest, before):
            break
        members = torch.nn.functional.one_hot(nearest, count).to(maps.dtype)
        sizes = members.sum(dim=0)[:, None]
        centres, before = torch.where(sizes > 0, members.mT @ maps / sizes.clamp(min=1), centres), nearest
    return centres


def largest(maps: Float[Tensor, "K n"], share: float) -> Bool[Tensor, "K n"]:
    """Returns masks of each map's largest tokens, a share of them rounded to a whole number, at least one."""
    most = maps.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(share * maps.shape[1]))]
    return torch.zeros_like(maps, dtype=torch.bool).scatter(1, most, True)
