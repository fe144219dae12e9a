"""Input times gradient, the first-order effect of an embedding on the target."""

from torch import Tensor

from xai.explainers.states import embeddings, slopes, times
from xai.tape import Score, Tape


def input_gradient(tape: Tape, target: Score) -> Tensor:
    """[B, T], signed: the sum over the width of ∇x ⊙ x, x what enters a modality's first layer (Shrikumar et al. 2016)."""
    return times(slopes(tape, target), embeddings(tape))
