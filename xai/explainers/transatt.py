"""Transformer Attribution (Chefer, Gur & Wolf, CVPR 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import identity, rownorm, traced_back
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def transatt(
    recording: Recording,
    target: Score,
    gradient: bool = True,
    block: int | None = None,
    normalise: bool = False,
    last: int | None = None,
) -> Float[Tensor, "B T T"]:
    """Multiplies I + Ā of all layers, with Ā = E_h (∇A ⊙ R^A)⁺. Between two streams, Ā of their last event alone.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].
        gradient: False is the ablation without ∇A.
        block: is the ablation with Ā of one layer alone, 0 for the first and -1 for the last; None multiplies all.
        normalise: divides the rows of I + Ā by their sums, as published for BERT.
        last: layers that count, from the end; None for all.

    Returns:
        Map [B, T, T].

    Raises:
        ValueError: a block that the recording has not.

    Source:
        TransAtt eq. 13 and 14.
    """
    by_event, gradients = relevances(recording, target, TRANSATT).A, recording.gradients(target)

    def change(event: Event) -> Tensor:
        weight = gradients[event].A if gradient else 1
        return (weight * by_event[event]).clamp(min=0).mean(dim=1)

    R = identity(recording) if block is None else torch.zeros_like(identity(recording))
    for layer in recording.last(last) if block is None else (_only(recording, block),):
        before, R = R, R.clone()
        for event in layer:
            s, k, A = event.queries, event.keys, change(event)
            if block is not None or not event.is_self:
                R[:, s, k] = A
            else:
                M = A + event.itself
                R[:, s, k] = (rownorm(M) if normalise else M) @ before[:, k, k]
    return traced_back(recording, R, through_streams=block is None)


def _only(recording: Recording, block: int) -> tuple[Event, ...]:
    count = len(recording.layers)
    if not -count <= block < count:
        raise ValueError(
            f"block is {block}; this recording has {count} layers, so give {-count} to {count - 1} or None"
        )
    return recording.layers[block]
