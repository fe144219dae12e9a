"""FullGrad+ by LibraGrad's gradient (Mehri, Baghshah & Pilehvar 2025): state times gradient, at every layer."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import scores_traced_back
from xai.explainers.states import along, standing
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def libra_fullgrad(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Takes the mean over layers of Σ_D x ⊙ ∇̃x, x the states before a layer, ∇̃ LibraGrad's gradient.

    The paper adds the layers up, and the terms b ⊙ ∇̃b of biases. Ours leaves these out: which token a bias belongs to cannot
    be told of every operation; `check=True` says what they absorb. Without biases, and without positions within the layers,
    the scores sum to the target, if all streams go on to the last layer or no later one reads them. A stream that ends
    and is read afterwards, as an encoder's, counts with its last state.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Mehri, Baghshah & Pilehvar 2025, §2.1 and 3.5.
    """
    gradients = recording.gradients(target, "libra")
    scores = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)

    def effect(event: Event) -> Tensor:
        return (gradients[event].Y * event.Y.detach()).sum(dim=-1, dtype=scores.dtype)

    layers = range(len(recording.layers))
    for layer in layers:
        scores += along(recording, standing(recording, layer), effect) / len(layers)
    return scores_traced_back(recording, scores)
