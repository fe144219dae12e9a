"""TokenTM (Wu et al. 2024): attention weighed by how much it transforms the tokens that it moves."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import fold
from xai.explainers.states import State, along, embedding, side_by_side, states
from xai.lrp.modified_gradient import Backward
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def tokentm(
    recording: Recording, target: Score, last: int | None = None, backward: Backward = "autograd"
) -> Float[Tensor, "B T T"]:
    """Adds C[s] += Ā W C[k] for every attention, from C = the lengths of the tokens.

    Ā is GenAtt's. W compares a token x with its value after the output projection, x̃: the ratio of lengths ‖x̃‖ / ‖x‖
    times exp cos(x, x̃), the latter divided by its mean over the event's keys. x is the token's residual input. Feed-forward
    layers, which move nothing between tokens, are left out. Cross-attention takes the other stream's last residual input;
    that is our generalisation.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        last: layers that count, from the end; None for all.
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Map [B, T, T].

    Raises:
        ValueError: a module that does not show its values; names the module.

    Source:
        Wu et al. 2024.
    """
    gradients = recording.gradients(target, backward)
    before = {event: state for layer, state in zip(recording.layers, states(recording), strict=True) for event in layer}

    def change(R: Tensor, event: Event) -> Tensor:
        W = transformation(recording, event, before[event]).to(R.dtype)
        return (gradients[event].evidence * W[:, None]) @ R[:, event.keys]

    first = before[recording.last(last)[0][0]] if last is not None else embedding(recording)
    lengths = along(recording, first, lambda event: event.Y.detach().norm(dim=-1))
    return fold(recording, change, last) * lengths[:, None]


def transformation(recording: Recording, event: Event, state: State) -> Float[Tensor, "B k"]:
    """Returns W; 0 for a token of length 0, which passes nothing on."""
    x = side_by_side(recording, event, event.keys, state, lambda held: held.Y.detach())
    x_new = _projected_values(event)
    if x.shape != x_new.shape:
        raise ValueError(f"module {event.module!r} makes tokens of width {x.shape[-1]} ones of width {x_new.shape[-1]}")
    length = x.norm(dim=-1)
    ratio = x_new.norm(dim=-1) / length.where(length > 0, torch.inf)
    mask = recording.mask[:, event.keys]
    direction = F.cosine_similarity(x, x_new, dim=-1).exp() * mask
    return ratio * direction * mask.sum(dim=1, keepdim=True) / direction.sum(dim=1, keepdim=True)


def _projected_values(event: Event) -> Float[Tensor, "B k D"]:
    """Passes all heads' values through the output projection."""
    if event.qkv is None or event.qkv.projection is None:
        missing = (
            "has its softmax in plain code or samples points"
            if event.qkv is None
            else "has no linear output projection"
        )
        raise ValueError(
            f"module {event.module!r} {missing}, so TokenTM cannot see how it transforms tokens; it needs a model that "
            "calls scaled_dot_product_attention (attn_implementation='sdpa') and projects the result"
        )
    values = event.qkv.value.detach().transpose(1, 2).flatten(2)
    return F.linear(values, event.qkv.projection.to(values.dtype))
