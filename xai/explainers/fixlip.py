"""FIxLIP (Baniecki et al. 2025): weighted Banzhaf interactions of words and patches, from runs without some of them."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xai.games.game import Game, game_of
from xai.games.interactions import Interactions, banzhaf_pairs, crossed_pairs
from xai.games.masks import every, fits, independent
from xai.games.players import Block, Players, played, players_of
from xai.games.towers import each_with_each, towers_of
from xai.recording.axis import index_of
from xai.recording.recording import Recording, Score


def fixlip(
    recording: Recording,
    target: Score,
    budget: int = 512,
    p: float = 0.5,
    within: bool = False,
    block: Block = 1,
    seed: int = 0,
) -> Float[Tensor, "B T T"]:
    """Fits φ₀ + Σ φ_i M_i + Σ_{i<j} φ_ij M_i M_j to the target on masks M in which each token stays with probability p.

    φ_ij is the weighted Banzhaf interaction, what two tokens have together and neither alone. Pairs of two modalities are
    fitted, of a model of one all; which others are left out does not change φ_ij, only φ_i. Where there are no more masks than
    the budget, all are run and φ_ij is exact. Else they are estimates, by ridge regression, whose strength is found by
    generalised cross-validation: pairs are many, and of a budget below their number rough.

    Two towers that never read each other (CLIP), asked for `similarity()`, are run once for each mask of an image and of a text:
    as many runs give budget² values.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample.
        p: the probability that a token stays.
        within: pairs of one modality are fitted, too; without it the towers' short cut holds.
        block: patches are taken away in squares of this many rows and columns.
        seed: of the masks.

    Returns:
        Map [B, T, T]: φ_ij at (i, j) and (j, i), φ_i at (i, i). What is of a square is shared equally by its patches. With
        p = ½ the scores of single tokens, φ_i + ½ Σ_j φ_ij, are their Banzhaf values.

    Raises:
        ValueError: fewer than four runs, or p not between 0 and 1.

    Source:
        Baniecki et al. 2025; Marichal & Mathonet 2011 for the weighted interaction as least squares.
    """
    if budget < 4:
        raise ValueError(f"budget is {budget}; give at least 4")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; give a probability between 0 and 1")
    game = game_of(recording, target)
    players = players_of(recording, target, together=True, block=block)[0]
    towers = None if within else towers_of(recording, target)
    found = (
        _jointly(game, players, budget, p, within, seed)
        if towers is None
        else _by_towers(game, players, towers, budget, p, seed)
    )
    pairs = torch.zeros(
        *recording.mask.shape, recording.mask.shape[1], dtype=torch.float64, device=recording.mask.device
    )
    for sample, interactions in found:
        pairs[game.rows_of(sample)] = _laid(players.of[sample].cpu(), interactions).to(pairs.device)
    return pairs


def _jointly(
    game: Game, players: Players, budget: int, p: float, within: bool, seed: int
) -> Iterator[tuple[int, Interactions]]:
    """Yields each sample's interactions from masks of all players."""

    masks = {
        sample: every(count) if fits(count, budget) else independent(count, budget, p, seed)
        for sample, count in enumerate(players.counts)
        if count > 0
    }
    for sample, values in played(game, players, masks):
        side, count = _sides(game.recording, players, sample).cpu(), players.counts[sample]
        pairs = torch.combinations(torch.arange(count))
        if not within and len(side.unique()) > 1:
            pairs = pairs[side[pairs[:, 0]] != side[pairs[:, 1]]]
        yield sample, banzhaf_pairs(masks[sample], values.cpu(), pairs, p, drawn=not fits(count, budget))


def _by_towers(
    game: Game, players: Players, towers: tuple[list[str], list[str]], budget: int, p: float, seed: int
) -> Iterator[tuple[int, Interactions]]:
    """Yields each sample's interactions from masks of one tower's players and of the other's, each with each."""
    names = list(game.recording.inputs)
    for sample, count in enumerate(players.counts):
        if count == 0:
            continue
        of_side = _sides(game.recording, players, sample)
        masks, keep, order, drawn = [], [], [], []
        for number, side in enumerate(towers):
            own = torch.isin(of_side, torch.tensor([names.index(name) for name in side], device=of_side.device))
            order.append(own.nonzero()[:, 0])
            size = len(order[-1])
            drawn.append(not fits(size, budget))
            masks.append((independent(size, budget, p, seed + number) if drawn[-1] else every(size)).to(own.device))
            all_players = masks[-1].new_ones(len(masks[-1]), count)
            all_players[:, own] = masks[-1]
            keep.append(players.keep(sample, all_players))
        values = each_with_each(game, sample, keep[0], keep[1]).cpu()
        found = crossed_pairs(masks[0].cpu(), masks[1].cpu(), values, p, (drawn[0], drawn[1]))
        place = torch.cat(order).argsort().cpu()
        yield sample, Interactions(found.alone[place], found.together[place][:, place])


def _sides(recording: Recording, players: Players, sample: int) -> Int[Tensor, " n"]:
    """Returns the number of each player's modality."""
    side = torch.zeros(players.counts[sample], dtype=torch.long, device=players.of.device)
    for number, where in enumerate(recording.inputs.values()):
        of = players.of[sample, index_of(where)]
        side[of[of >= 0]] = number
    return side


def _laid(of: Int[Tensor, " T"], found: Interactions) -> Float[Tensor, "W T T"]:
    """Lays what is of players on the joint axis, shared equally by their tokens."""
    member = (of[:, None] == torch.arange(len(found.alone), device=of.device)).double()
    share = member / member.sum(dim=0).clamp(min=1)
    return share @ found.together.permute(2, 0, 1) @ share.mT + torch.diag_embed((share @ found.alone).mT)
