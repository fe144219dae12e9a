"""Attentive class activation tokens (Qiang et al. 2022)."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import mean_attention, scores_traced_back
from xai.explainers.states import along, states
from xai.lrp.modified_gradient import Backward
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def attcat(
    recording: Recording, target: Score, last: int | None = None, backward: Backward = "autograd"
) -> Float[Tensor, "B T"]:
    """Sums over layers the attention a token receives times its activation.

    The activation is ∇h ⊙ h summed over the width, h what enters the layer (as in the published code); the attention
    received is the mean over heads and real queries. With several streams, which the paper has not, every attention that
    reads a token adds its part, with the token's last residual input on the recording.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        last: layers that count, from the end; None for all.
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Qiang et al. 2022.
    """
    gradients = recording.gradients(target, backward)
    scores = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)

    def activation(event: Event) -> Tensor:
        return (gradients[event].Y * event.Y.detach()).sum(dim=-1, dtype=scores.dtype)

    layers = recording.last(last)
    for layer, state in zip(layers, states(recording)[-len(layers) :], strict=True):
        activations = along(recording, state, activation)
        for event in layer:
            scores[:, event.keys] += received(recording, event) * activations[:, event.keys]
    return scores_traced_back(recording, scores)


def received(recording: Recording, event: Event) -> Float[Tensor, "B k"]:
    """Returns the mean attention that each key gets from the real queries."""
    queries = recording.mask[:, event.queries].sum(dim=1, keepdim=True).clamp(min=1)
    return mean_attention(recording, event).sum(dim=1) / queries
