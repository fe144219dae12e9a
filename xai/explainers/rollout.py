"""Attention rollout (Abnar & Zuidema 2020); between two streams as in GenAtt."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import identity, mean_attention, rownorm, traced_back
from xai.recording.recording import Recording, Score


def rollout(
    recording: Recording, target: Score, normalise: bool = True, last: int | None = None
) -> Float[Tensor, "B T T"]:
    """Multiplies rownorm(I + E_h A) of all layers.

    Self-attention: R[s,s] = rownorm(I + E_h A) R[s,s]. The block R[s,q] of two streams comes from their last cross event
    alone: R[s,s]ᵀ E_h A R[q,q], with both as they stood before it.

    Args:
        recording: one forward pass.
        target: ignored.
        normalise: False multiplies I + E_h A as it is.
        last: layers that count, from the end; None for all.

    Returns:
        Map [B, T, T].

    Source:
        Abnar & Zuidema 2020; GenAtt eq. 12.
    """
    R = identity(recording)
    for layer in recording.last(last):
        before, R = R, R.clone()
        for event in layer:
            s, k, A = event.queries, event.keys, mean_attention(recording, event)
            if event.is_self:
                M = A + event.itself
                R[:, s, k] = (rownorm(M) if normalise else M) @ before[:, k, k]
            else:
                R[:, s, k] = before[:, s, s].mT @ A @ before[:, k, k]
    return traced_back(recording, R)
