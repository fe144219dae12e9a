"""Weighted Banzhaf values of tokens: what the target gains with a token, when others are there by chance."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.games.credits import banzhaf_credits, banzhaf_errors
from xai.games.masks import every, fits, independent
from xai.games.players import Block, each_game, play
from xai.recording.recording import Recording, Score


def banzhaf(
    recording: Recording,
    target: Score,
    budget: int = 512,
    p: float = 0.5,
    together: bool = False,
    block: Block = 1,
    seed: int = 0,
    errors: bool = False,
) -> Float[Tensor, "B T"]:
    """Computes E[f(M with i) - f(M without i)] over masks in which every other token stays with probability p.

    Where a game has no more masks than its share of the budget, all are run and the values are exact.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample, shared equally by its modalities.
        p: the probability that a token stays.
        together: as of `shapley`.
        block: patches are taken away in squares of this many rows and columns.
        seed: of the masks.
        errors: returns the estimates' standard errors in the place of scores; 0 where the values are exact.

    Returns:
        Scores [B, T]; negative ones speak against the target. They need not sum to f(all) - f(none).

    Raises:
        ValueError: p is not between 0 and 1, or a budget that leaves no run for a modality, or too few for standard errors.

    Source:
        Li & Yao 2023 for the weighted value; Hammer & Holzman 1992 for least squares.
    """
    count = each_game(recording, target, budget, together)

    def draw(players: int) -> Tensor:
        return every(players) if fits(players, count) else independent(players, count, p, seed)

    def credit(masks: Tensor, values: Tensor, prior: Tensor) -> Tensor:
        known = fits(masks.shape[1], count)
        if not errors:
            return banzhaf_credits(masks, values, p, drawn=not known)
        return torch.zeros_like(prior) if known else banzhaf_errors(masks, values)

    return play(recording, target, draw, credit, together, block)
