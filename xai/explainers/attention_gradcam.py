"""Grad-CAM on attention: the last attention, its heads weighted by their mean gradient."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import readout_weights
from xai.explainers.last_map import last_map
from xai.lrp.modified_gradient import Backward
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def attention_gradcam(
    recording: Recording, target: Score, over: Literal["map", "row"] = "map", backward: Backward = "autograd"
) -> Float[Tensor, "B T T"]:
    """Returns (E_h w_h A_h)⁺ of the last events.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        over: "map" takes for w_h the gradient's mean over the whole map of real tokens; "row" that over the row that is read,
            without the entry of the token itself (as published for ViT).
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Map [B, T, T].

    Source:
        TransAtt §4, GenAtt §4; Selvaraju et al. 2017.
    """
    gradients = recording.gradients(target, backward)
    readout = readout_weights(recording, target) != 0

    def show(event: Event) -> Tensor:
        rows = (recording.mask if over == "map" else readout)[:, event.queries, None]
        keys = recording.mask if over == "map" else recording.mask & ~readout
        counted = (rows & keys[:, None, event.keys])[:, None]
        weights = (gradients[event].A * counted).sum(dim=(2, 3)) / counted.sum(dim=(2, 3)).clamp(min=1)
        return (weights[..., None, None] * event.A.detach()).mean(dim=1).clamp(min=0)

    return last_map(recording, show)
