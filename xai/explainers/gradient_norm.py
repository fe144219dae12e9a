"""The length of the gradient, a baseline without attention: how fast the target could change with a token."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.states import gradients, laid
from xai.lrp.modified_gradient import Backward
from xai.recording.recording import Recording, Score


def gradient_norm(recording: Recording, target: Score, backward: Backward = "autograd") -> Float[Tensor, "B T"]:
    """Returns ‖∇x‖₂, x what enters a modality's first layer.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Scores [B, T], none negative.

    Source:
        Simonyan, Vedaldi & Zisserman 2014, with the Euclidean norm over the width in the place of the largest entry.
    """
    slopes = gradients(recording, target, backward)
    return laid(recording, {name: slope.norm(dim=-1) for name, slope in slopes.items()})
