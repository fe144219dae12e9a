"""The consensus put to the test: tokens are taken away, and what is then seen corrects what gradients and relevance agree on."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.consensus import consensus
from xai.games.credits import ridge
from xai.games.masks import every, fits, paired, with_ends
from xai.games.players import Block, each_game, play
from xai.recording.recording import Recording, Score


def consensus_game(
    recording: Recording, target: Score, budget: int = 128, block: Block = 1, seed: int = 0
) -> Float[Tensor, "B T"]:
    """Weighs each token's effect, estimated from masks, by its consensus as far as the masks leave it open.

    Of each modality masks with their complements are run, whose sizes go evenly from one token to all but one. A linear model
    of the values is fitted, whose weights β are expected where the consensus q has them: β = c q + δ, δ by ridge regression.
    Of n weights the masks tell as many as the fit has degrees of freedom, d. The score is β (n q / Σ q)^(1 - d / n).

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample, shared equally by its modalities.
        block: patches are taken away in squares of this many rows and columns.
        seed: of the masks.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Raises:
        ValueError: a budget of fewer than four runs a game.

    Source:
        This project; docs/consensus.md.
    """
    count = each_game(recording, target, budget, least=4)

    def draw(players: int) -> Tensor:
        if fits(players, count):
            return every(players)
        return with_ends(paired(players, count - 2, seed))

    def credit(masks: Tensor, values: Tensor, prior: Tensor) -> Tensor:
        total = prior.sum(dim=0)
        expected = torch.where(total > 0, prior * len(prior) / total.where(total > 0, 1), 1)
        return ridge(masks, values, expected)

    return play(recording, target, draw, credit, block=block, prior=consensus(recording, target))
