"""LeGrad (Bousselham et al. 2024): the gradient by the attention maps is itself the explanation."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import scores_traced_back
from xai.explainers.lens import attention_gradient, layers_of, own_score
from xai.lrp.modified_gradient import Backward
from xai.recording.event import MEANS, Event
from xai.recording.recording import Recording, Score


def legrad(
    recording: Recording,
    target: Score,
    last: int | None = None,
    heads: str = "final",
    backward: Backward = "autograd",
) -> Float[Tensor, "B T"]:
    """Sums (∇A)⁺ over layers, the mean over heads and real queries.

    The paper differentiates each layer's own score, the model's head on the mean of that layer's tokens: `heads="own"`, where
    the model's last norm and head are known. Then only attentions of the streams that a head reads count: a mapper's, and
    not those of the CLIP before it, whose states are of another space. A head that reads every token, as a language model's,
    reads the states one by one, without the mean. By default all layers have the target itself, and one backward pass serves
    them. Keys that a query may not attend to do not count. The attentions of several streams add up: our generalisation.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        last: layers that count, from the end; None for all.
        heads: "final" takes the target of the whole model at every layer, "own" that of what the model's head says of the
            states after it.
        backward: whose gradient of the final target: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by
            rules, with which the recording must have been made.

    Returns:
        Scores [B, T].

    Raises:
        ValueError: `heads="own"` of a model whose last norm and head are not known.

    Source:
        Bousselham et al. 2024.
    """
    if heads not in ("final", "own"):
        raise ValueError(f'heads is {heads!r}; give "final" or "own"')
    if heads == "own" and backward != "autograd":
        raise ValueError(
            f"backward is {backward!r} with heads=\"own\"; a layer's own head has the model's own gradient"
        )
    counted = [event for layer in recording.last(last) for event in layer]
    if heads == "final":
        gradients = recording.gradients(target, backward)
        slopes = {event: gradients[event].sensitivity for event in counted}
    else:
        slopes = _own_sensitivity(recording, target, counted)
    scores = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)
    for event, sensitivity in slopes.items():
        real = recording.mask[:, event.queries]
        scores[:, event.keys] += (sensitivity * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return scores_traced_back(recording, scores)


def _own_sensitivity(recording: Recording, target: Score, counted: list[Event]) -> dict[Event, Tensor]:
    """E_h (∇A)⁺ [B, q, k] of those attentions whose states a head reads, ∇ the gradient of each layer's own target."""
    if not recording.heads:
        raise ValueError(
            "the last norm and head of this model are not known, so that they cannot be put on its layers: heads='own' is for "
            'CLIP, mappers and generative models of transformers; leave it "final"'
        )
    found = {}
    for head in recording.heads:
        for event, states in layers_of(recording, head):
            if event in counted:
                real = recording.mask[:, event.queries].to(states.dtype)
                mean = real / real.sum(dim=1, keepdim=True).clamp(min=1) if head.pooled else None
                slope = attention_gradient(recording, own_score(recording, head, states, target, mean), event)
                found[event] = MEANS["sensitivity"](event.A, slope).mean(dim=1)
    return found
