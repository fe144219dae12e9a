"""CLIP's own space: embeddings of single tokens, compared with what the whole image or text is compared with."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.lens import Layer, layers_of, read_token
from xai.recording.axis import within
from xai.recording.event import QKV, Event
from xai.recording.head import Head
from xai.recording.recording import Recording, Score

Tower = tuple[Head, list[Layer]]
Weights = Float[Tensor, "B H q k"]


def towers(recording: Recording, method: str) -> dict[str, Tower]:
    """Returns how each modality becomes an embedding; raises ValueError for what is no CLIP with a class token."""
    found = {}
    for head in recording.heads if recording.turns is None else ():
        layers = layers_of(recording, head) if head.unit else []
        for name, where in recording.modalities.items():
            if layers and within(where, layers[0].event.queries) is not None:
                found[name] = head, layers
    if not found:
        raise ValueError(
            f"{method} reads tokens in the space that images and texts have in common: it is for CLIP of transformers "
            "(CLIPModel) and of open_clip (a ViT that reads its class token), with the target similarity(); give another method"
        )
    return found


def image_tower(recording: Recording, method: str) -> Tower:
    """Returns that of the image; raises ValueError as `towers`, and where no image is seen or read as a class token."""
    found = towers(recording, method)
    if "image" not in found:
        raise ValueError(f"{method} is of patches, and the image of this pass has no class token that is read")
    return found["image"]


def embedding(recording: Recording, target: Score, tower: Tower) -> Float[Tensor, "B E"]:
    """Returns the embedding of length 1 that a tower ends with, off the graph."""
    head, layers = tower
    return head.read(at_read_token(recording, target, tower, layers[-1].states)).detach()


def at_read_token(
    recording: Recording, target: Score, tower: Tower, states: Float[Tensor, "B q D"]
) -> Float[Tensor, "B D"]:
    """Returns the state of the token that is read, off the graph."""
    read = read_token(recording, target, tower[1][-1].event)
    return (read[:, None].to(states.dtype) @ states.detach())[:, 0]


def direction(recording: Recording, target: Score, tower: Tower) -> Float[Tensor, "B E"]:
    """Returns the gradient of the target by a tower's embedding of length 1; of `similarity()` the other's, times the scale.

    Raises:
        ValueError: the target does not depend on it.
    """
    head, _ = tower
    with torch.inference_mode(False), torch.enable_grad():
        read = embedding(recording, target, tower).requires_grad_()
        score = replace(recording.fresh(), output=head.said(read, recording.output)).score(target)
        slope = torch.autograd.grad(score.sum(), read, allow_unused=True)[0] if score.requires_grad else None
    if slope is None:
        raise ValueError("the target reads no embedding that images and texts are compared by; give similarity()")
    return slope


def shown(event: Event) -> QKV:
    """Returns what goes into an attention; raises ValueError for a module that does not show it, names the module."""
    if event.qkv is None or event.qkv.projection is None:
        raise ValueError(
            f"module {event.module!r} does not show its queries, keys and values, and their projection; give a model that calls "
            "scaled_dot_product_attention (attn_implementation='sdpa')"
        )
    return event.qkv


def attended(event: Event, weights: Weights | None) -> Float[Tensor, "B q D"]:
    """Returns what an attention gives with other weights of its values, after its output projection; None for 1 of a token's own.

    Raises:
        ValueError: a module that shows no values, or does more to them than one linear projection; names it.
    """
    qkv = shown(event)
    assert qkv.projection is not None
    weight, bias, value = qkv.projection.detach(), qkv.bias, qkv.value.detach()

    def projected(mixed: Tensor) -> Tensor:
        return F.linear(mixed.transpose(1, 2).flatten(2), weight, None if bias is None else bias.detach())

    whole = projected(event.A.detach().to(value.dtype) @ value)
    if not torch.allclose(whole, event.Y_out.detach(), rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
        raise ValueError(
            f"module {event.module!r} does more to what it gives than one linear projection, as by a learned scale of the "
            "layer; single values cannot be told there"
        )
    return projected(value if weights is None else weights.to(value.dtype) @ value)


def alike(one: Float[Tensor, "B H q d"]) -> Weights:
    """Returns the softmax of the products of vectors with each other, divided by √d."""
    return (one @ one.mT / one.shape[-1] ** 0.5).softmax(dim=-1).detach()


def compared(recording: Recording, target: Score, tower: Tower, states: Float[Tensor, "B q D"]) -> Float[Tensor, "B T"]:
    """Returns of each image token the score that an image with its embedding would have; words have 0.

    Args:
        recording: of the pass.
        target: as of the explainer.
        tower: that of the image.
        states: of its tokens, in the place of those after the last layer.
    """
    patches = tower[0].read(states).detach()
    return on_image(recording, (patches @ direction(recording, target, tower)[..., None])[..., 0])


def on_image(recording: Recording, values: Float[Tensor, "B q"]) -> Float[Tensor, "B T"]:
    """Lays values of image tokens on the joint axis."""
    scores = torch.zeros(recording.mask.shape, dtype=recording.readout.dtype, device=recording.mask.device)
    scores[:, recording.modalities["image"]] = values.to(scores)
    return scores
