"""Generic attention explainability (Chefer, Gur & Wolf 2021), eq. 1-11."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import fold, rownorm
from xai.lrp.modified_gradient import Backward
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def genatt(
    recording: Recording,
    target: Score,
    normalise: bool = True,
    aggregate: bool = True,
    self_in_cross: bool = True,
    last: int | None = None,
    drop_undefined: bool = False,
    attention: Mapping[Event, Float[Tensor, "B H _ _"]] | None = None,
    backward: Backward = "autograd",
) -> Float[Tensor, "B T T"]:
    """Adds up Ā = E_h (∇A ⊙ A)⁺ over layers and streams. Events that do not reach the target change nothing.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        normalise: False is the paper's ablation without N in eq. 10.
        aggregate: False is the ablation in which every += is =, and N is not applied, as R - I has no meaning then.
        self_in_cross: False is the ablation in which eq. 10 is R[s,q] += Ā.
        last: layers that count, from the end; None for all.
        drop_undefined: leaves a sample's whole eq. 10 out where N divides by zero, as DETR's published code does; by default
            such a row stays a row of the identity.
        attention: [B, H, q, k] of each event, in the place of A in eq. 5; None for A.
        backward: whose gradient: "autograd" for the model's own, "libra" or "attn_lrp" for one modified by rules, with which the
            recording must have been made.

    Returns:
        Map [B, T, T].

    Source:
        GenAtt eq. 1 to 11.
    """
    gradients = recording.gradients(target, backward)
    normalise = normalise and aggregate

    def change(R: Tensor, event: Event) -> Tensor:
        rows = R[:, event.queries]
        if not gradients[event].reached:
            return torch.zeros_like(rows)
        slope, own = gradients[event], None if attention is None else attention[event]
        A = slope.evidence if own is None else (slope.A * own).clamp(min=0).mean(dim=1)  # eq. 5
        update = A @ R[:, event.keys]  # eq. 6, 7; in cross-attention eq. 11
        columns = slice(None)
        if not event.is_self:
            cross = cross_update(R, event, A, normalise, drop_undefined) if self_in_cross else A
            update[..., event.keys] = cross
            columns = slice(None) if _is_answered(recording, event) else event.keys
        difference = torch.zeros_like(rows)
        difference[..., columns] = update[..., columns] if aggregate else (update - rows)[..., columns]
        return difference

    return fold(recording, change, last)


def cross_update(
    R: Float[Tensor, "B T T"], event: Event, A: Float[Tensor, "B q k"], normalise: bool, drop_undefined: bool
) -> Float[Tensor, "B q k"]:
    """Returns N(R[s,s])ᵀ Ā N(R[q,q]) (eq. 10)."""
    left, right = (R[:, tokens, tokens] for tokens in (event.queries, event.keys))
    if not normalise:
        return left.mT @ A @ right
    update = shares(left).mT @ A @ shares(right)
    if not drop_undefined:
        return update
    return update * (_is_defined(left) & _is_defined(right))


def shares(R: Float[Tensor, "B q q"]) -> Float[Tensor, "B q q"]:
    """Returns N(R) = rownorm(R - I) + I (eq. 8, 9); a token that has taken in nothing yet is itself alone."""
    eye = torch.eye(R.shape[-1], device=R.device, dtype=R.dtype)
    return rownorm(R - eye) + eye


def _is_defined(R: Tensor) -> Tensor:
    eye = torch.eye(R.shape[-1], device=R.device, dtype=R.dtype)
    return ((R - eye).sum(dim=-1) != 0).all(dim=-1)[:, None, None]


def _is_answered(recording: Recording, event: Event) -> bool:
    """Returns whether the keys also read the queries: co-attention, and not an encoder that never sees its decoder."""
    return any(other.queries == event.keys and other.keys == event.queries for other in recording.events)
