"""Occlusion: what the target loses without a token."""

from jaxtyping import Float
from torch import Tensor

from xai.games.masks import one_out, with_whole
from xai.games.players import Block, play
from xai.recording.recording import Recording, Score


def occlusion(recording: Recording, target: Score, block: Block = 1) -> Float[Tensor, "B T"]:
    """Computes f(1) - f(1 - e_i), one run of the model for each token.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        block: patches are taken away in squares of this many rows and columns.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Zeiler & Fergus 2014; Li et al. 2016 for words.
    """

    def loss(masks: Tensor, values: Tensor, prior: Tensor) -> Tensor:
        return values[:1] - values[1:]

    return play(recording, target, lambda players: with_whole(one_out(players)), loss, block=block)
