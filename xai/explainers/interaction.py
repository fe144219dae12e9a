"""Modified interaction map: how the input tokens of one modality attend to those of another, over all layers."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import advance, identity, traced_back
from xai.explainers.wra import wra_change
from xai.recording.recording import Recording, Score


def interaction(
    recording: Recording, target: Score, mutual: bool = False, last: int | None = None
) -> Float[Tensor, "B T T"]:
    """Returns M over the joint axis; the block of two modalities is `M[:, modalities[v], modalities[l]]`.

    Every event adds R[s]ᵀ Ã R[k], with Ã not normalised and R of WRA as it stood before the event.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        mutual: returns M ⊙ Mᵀ.
        last: layers that count, from the end; None for all.

    Returns:
        Map [B, T, T].

    Source:
        WRA §3.3, eq. 16 to 19.
    """
    gradients = recording.gradients(target)
    change = wra_change(gradients)
    R = identity(recording)
    M = torch.zeros_like(R)
    for layer in recording.last(last):
        for event in layer:
            M += R[:, event.queries].mT @ gradients[event].evidence @ R[:, event.keys]
        R = advance(R, layer, change)
    M = traced_back(recording, traced_back(recording, M).mT).mT
    return M * M.mT if mutual else M
