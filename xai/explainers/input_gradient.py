"""Input times gradient, the first-order effect of an embedding on the target."""

from torch import Tensor

from xai.explainers.states import embeddings, gradients, times
from xai.recording.recording import Recording, Score


def input_gradient(recording: Recording, target: Score) -> Tensor:
    """[B, T], signed: the sum over the width of ∇x ⊙ x, x what enters a modality's first layer (Shrikumar et al. 2016)."""
    return times(gradients(recording, target), embeddings(recording))
