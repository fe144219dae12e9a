"""Shapley values of tokens, estimated from masks (KernelSHAP), and of both modalities together (MM-SHAP)."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.games.credits import shapley_credits, shapley_errors
from xai.games.masks import every, fits, shapley_paired, with_ends
from xai.games.players import Block, each_game, play
from xai.recording.recording import Recording, Score


def shapley(
    recording: Recording,
    target: Score,
    budget: int = 512,
    together: bool = False,
    block: Block = 1,
    seed: int = 0,
    errors: bool = False,
) -> Float[Tensor, "B T"]:
    """Shares out f(all) - f(none) among the tokens as Shapley values do.

    Where a game has no more masks than its share of the budget, all are run and the values are exact.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample, shared equally by its modalities.
        together: all modalities are one game; else each is one of its own, in which the others stay whole.
        block: patches are taken away in squares of this many rows and columns.
        seed: of the masks.
        errors: returns the estimates' standard errors in the place of scores; 0 where the values are exact.

    Returns:
        Scores [B, T]; those of a game sum to f(all) - f(none). Negative ones speak against the target.

    Raises:
        ValueError: a budget of fewer than four runs a game, or too few for standard errors.

    Source:
        Lundberg & Lee 2017, eq. 8; masks with their complements: Covert & Lee 2021.
    """
    count = each_game(recording, target, budget, together, least=4)

    def draw(players: int) -> Tensor:
        return every(players) if fits(players, count) else with_ends(shapley_paired(players, count - 2, seed))

    def credit(masks: Tensor, values: Tensor, prior: Tensor) -> Tensor:
        known = fits(masks.shape[1], count)
        if not errors:
            return shapley_credits(masks, values, sampled=not known)
        return torch.zeros_like(prior) if known else shapley_errors(masks, values)

    return play(recording, target, draw, credit, together, block)


def mm_shap(recording: Recording, target: Score, budget: int = 512, seed: int = 0) -> Float[Tensor, "B T"]:
    """Computes Shapley values of words and about as many squares of patches in one game.

    The paper's share of a modality is Σ |φ| of its tokens over that of all; `Relevance.shares` counts positive φ alone.

    Args:
        recording: one forward pass of a model with image and text.
        target: as of `shapley`.
        budget: runs of the model on a sample.
        seed: of the masks.

    Returns:
        Scores [B, T] as `shapley`; a square's value is shared equally by its patches.

    Source:
        Parcalabescu & Frank 2023, §3.
    """
    return shapley(recording, target, budget, together=True, block="words", seed=seed)
