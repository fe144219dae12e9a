"""Input times gradient, the first-order effect of an embedding on the target."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.states import embeddings, gradients, times
from xai.lrp.modified_gradient import Backward
from xai.recording.recording import Recording, Score


def input_gradient(recording: Recording, target: Score, backward: Backward = "autograd") -> Float[Tensor, "B T"]:
    """Sums ∇x ⊙ x over the width, x what enters a modality's first layer.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Shrikumar et al. 2016.
    """
    return times(recording, gradients(recording, target, backward), embeddings(recording))
