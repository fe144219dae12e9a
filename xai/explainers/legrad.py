"""LeGrad (Bousselham et al. 2024): the gradient by the attention maps is itself the explanation."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import scores_traced_back
from xai.lrp.modified_gradient import Backward
from xai.recording.recording import Recording, Score


def legrad(
    recording: Recording, target: Score, last: int | None = None, backward: Backward = "autograd"
) -> Float[Tensor, "B T"]:
    """Sums (∇A)⁺ over layers, the mean over heads and real queries.

    The paper differentiates each layer's own score, the model's head on the mean of that layer's tokens. Models have no
    head in common that reads a layer, so here all layers have the target itself, and one backward pass serves them.
    Keys that a query may not attend to do not count. The attentions of several streams add up: our generalisation.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        last: layers that count, from the end; None for all.
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Scores [B, T].

    Source:
        Bousselham et al. 2024.
    """
    gradients = recording.gradients(target, backward)
    scores = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)
    for layer in recording.last(last):
        for event in layer:
            counted = (event.A > 0) & recording.mask[:, None, event.queries, None]
            sensitivity = (gradients[event].A.clamp(min=0) * counted).mean(dim=1).sum(dim=1)
            scores[:, event.keys] += sensitivity / recording.mask[:, event.queries].sum(dim=1, keepdim=True).clamp(
                min=1
            )
    return scores_traced_back(recording, scores)
