"""RISE: the mean of the target over random masks in which a token stays."""

from jaxtyping import Float
from torch import Tensor

from xai.games.credits import mean_credits, mean_errors
from xai.games.masks import independent
from xai.games.players import Block, each_game, play
from xai.recording.recording import Recording, Score


def rise(
    recording: Recording,
    target: Score,
    budget: int = 512,
    p: float = 0.5,
    block: Block = 1,
    seed: int = 0,
    errors: bool = False,
) -> Float[Tensor, "B T"]:
    """Computes Σ f(M) M_i / Σ M_i over masks in which every token stays with probability p.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]. Its probability is looked at where it knows one.
        budget: runs of the model on a sample, shared equally by its modalities.
        p: the probability that a token stays.
        block: patches are taken away in squares of this many rows and columns, whose edges are not blurred or moved as the
            paper's are.
        seed: of the masks.
        errors: returns the means' standard errors in the place of scores.

    Returns:
        Scores [B, T], in the target's unit; the mean value of all masks is in each of them, so that only their order and
        differences tell something.

    Raises:
        ValueError: p is not between 0 and 1, or a budget that leaves no run for a modality, or too few for standard errors.

    Source:
        Petsiuk et al. 2018, eq. 6.
    """
    count = each_game(recording, target, budget)

    def credit(masks: Tensor, values: Tensor, prior: Tensor) -> Tensor:
        return (mean_errors if errors else mean_credits)(masks, values)

    return play(recording, target, lambda players: independent(players, count, p, seed), credit, block=block)
