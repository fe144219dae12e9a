"""DEX-AR (Bousselham et al. 2026): the gradient of each layer's own word by its attention, heads weighed by what they see."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import traced_back
from xai.explainers.lens import Layer, attention_gradient, head_of, layers_of, own_score, pictures, read_token
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def dex_ar(recording: Recording, target: Score, last: int = 10, lens: bool = True) -> Float[Tensor, "B T T"]:
    """Sums w G over the heads of the last attentions, of image tokens alone.

    G = (∂y/∂A)⁺ of the row that decides the word, brought to 0 … 1 over its keys; y is the target of what the model's own norm
    and head say of the states after that attention (the logit lens). w = (max of G over image tokens - max over text)⁺
    leaves out the heads that look at words. An attention without words among its keys, as cross-attention, has 0 for
    their maximum: our generalisation. The weights of words in a whole text (the paper's δ) are not in it.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]; of a written word its logit.
        last: attentions of the stream that count, from the end; all if there are fewer.
        lens: False takes the target itself for y at every attention, for models whose norm and head are not known.

    Returns:
        Map [B, T, T]; words have 0.

    Raises:
        ValueError: a model without image tokens; `lens` where its norm and head are not known.

    Source:
        Bousselham et al. 2026 (arXiv 2603.06302).
    """
    if last < 1:
        raise ValueError(f"last is {last}; give at least 1")
    batch, tokens = recording.mask.shape
    like = recording.layers[0][0].A
    R = torch.zeros(batch, tokens, tokens, device=like.device, dtype=like.dtype)
    if not pictures(recording, slice(0, tokens)).any():
        raise ValueError("dex_ar tells which image tokens a word is said for; this model sees no image")
    for event, gradient in _by_lens(recording, target, last) if lens else _by_target(recording, target, last):
        R[:, event.queries, event.keys] += _filtered(recording, event, gradient).to(R.dtype)
    return traced_back(recording, R, through_streams=False)


def _by_lens(recording: Recording, target: Score, last: int) -> list[tuple[Event, Tensor]]:
    head = head_of(recording, "dex_ar (unless lens=False)")
    layers = layers_of(recording, head)
    weights = read_token(recording, target, layers[-1].event) if head.pooled else None

    def score(layer: Layer) -> Tensor:
        known = layer is layers[-1]
        return recording.score(target) if known else own_score(recording, head, layer.states, target, weights)

    return [(layer.event, attention_gradient(recording, score(layer), layer.event)) for layer in layers[-last:]]


def _by_target(recording: Recording, target: Score, last: int) -> list[tuple[Event, Tensor]]:
    read = recording.rows_of(target).any(dim=0)
    events = [event for event in recording.events if read[event.queries].any()]
    gradients = recording.gradients(target)
    return [(event, gradients[event].A) for event in events[-last:]]


def _filtered(recording: Recording, event: Event, gradient: Float[Tensor, "B H q k"]) -> Float[Tensor, "B q k"]:
    """Returns Σ_h w G at image tokens."""
    counted = (event.A > 0) & recording.mask[:, None, None, event.keys]
    G = gradient.clamp(min=0)
    low = G.masked_fill(~counted, torch.inf).amin(dim=-1, keepdim=True)
    high = G.masked_fill(~counted, -torch.inf).amax(dim=-1, keepdim=True)
    G = torch.where(counted & (high > low), (G - low) / (high - low), 0)
    seen = pictures(recording, event.keys)
    w = (G * seen).amax(dim=-1, keepdim=True) - (G * ~seen).amax(dim=-1, keepdim=True)
    return (w.clamp(min=0) * G * seen).sum(dim=1)
