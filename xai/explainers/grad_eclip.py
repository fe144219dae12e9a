"""Grad-ECLIP (Zhao et al. 2024): the values of the last attention, weighed by the gradient and by likeness."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.last_map import last_map
from xai.lrp.modified_gradient import Backward
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def grad_eclip(
    recording: Recording, target: Score, loosened: bool = True, last: int = 1, backward: Backward = "autograd"
) -> Float[Tensor, "B T T"]:
    """Returns (Σ λ_ij ∇o_i · v_j)⁺, o the heads' mixed values before the output projection.

    ∇o_i · v_j over all heads is the sum of ∇A_ij over heads, which the recording has. λ is the cosine of query and key, of all
    heads together, moved to [0, 1] over the keys that a query may attend to. A token says nothing of itself, as the class
    token in the paper. Blocks between streams are our generalisation.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        loosened: False takes 1 for λ.
        last: attentions that each block of the joint axis sums (the paper has 1 for images, more for texts).
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Map [B, T, T].

    Raises:
        ValueError: `loosened` where a module shows no queries and keys; names the module.

    Source:
        Zhao et al. 2024.
    """
    gradients = recording.gradients(target, backward)

    def show(event: Event) -> Tensor:
        allowed = ((event.A > 0).any(dim=1) & recording.mask[:, None, event.keys]).to(event.A.dtype)
        if event.is_self:
            allowed = allowed * (1 - event.itself)
        likeness = _likeness(event, allowed) if loosened else allowed
        return likeness * gradients[event].A.sum(dim=1)

    return last_map(recording, show, last).clamp(min=0)


def _likeness(event: Event, allowed: Float[Tensor, "B q k"]) -> Float[Tensor, "B q k"]:
    """Returns λ; 0 where not allowed, and 1 where all cosines of a row are one number."""
    if event.qkv is None:
        raise ValueError(
            f"module {event.module!r} has its softmax in plain code or samples points, which shows no queries and keys; give "
            "loosened=False, or a model that calls scaled_dot_product_attention (attn_implementation='sdpa')"
        )
    query, key = (F.normalize(t.detach().transpose(1, 2).flatten(2), dim=-1) for t in (event.qkv.query, event.qkv.key))
    cosine = (query @ key.mT).to(allowed.dtype)
    low, high = (cosine.masked_fill(allowed == 0, sign * torch.inf) for sign in (1, -1))
    low, high = low.amin(dim=-1, keepdim=True), high.amax(dim=-1, keepdim=True)
    spread = torch.where(high > low, (cosine - low) / (high - low), 1)
    return torch.where(allowed > 0, spread, 0)
