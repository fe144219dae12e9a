"""captum's gradients at the embeddings, of a ViT and of BERT.

Its layer Grad-CAM takes axis 1 of [B, tokens, width] for channels, and so has no map of a ViT's tokens.
"""

from functools import partial
from typing import Any

import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from torch import Tensor

from benchmarks.models import bert, graph_from_embeddings, vit
from benchmarks.peers.contest import Contest
from xai import explain, given


def contests(quick: bool) -> list[Contest]:
    steps = 2 if quick else 32
    image: Any
    image, pixels = vit(quick, 2)
    text, words = bert(quick, 2, 12 if quick else 64)
    with torch.no_grad():
        black = image.base_model.embeddings(torch.zeros_like(pixels[:1]))
    integrate = partial(explain, image, {"pixel_values": pixels}, "integrated_gradients", given(0), steps=steps)
    return [
        Contest(
            "ViT-B/32, input gradient", partial(_ours, image, {"pixel_values": pixels}), partial(_slope, image, pixels)
        ),
        Contest(
            f"ViT-B/32, integrated gradients of {steps} steps",
            lambda: integrate(baseline={"image": black}).scores["image"],
            lambda: _integrated(image, pixels, steps),
        ),
        Contest("BERT, input gradient", partial(_ours, text, words), partial(_slope, text, *words.values())),
    ]


def _ours(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([*explain(model, inputs, "input_gradient", given(0)).scores.values()], dim=1)


def _slope(model: Any, first: Tensor, mask: Tensor | None = None) -> Tensor:
    method = LayerGradientXActivation(_logits(model), model.base_model.embeddings)
    with graph_from_embeddings(model):  # captum differentiates the layer's output
        return method.attribute(first, target=0, additional_forward_args=mask).sum(dim=-1)


def _integrated(model: Any, pixels: Tensor, steps: int) -> Tensor:
    method = LayerIntegratedGradients(_logits(model), model.base_model.embeddings)
    found = method.attribute(pixels, torch.zeros_like(pixels), target=0, n_steps=steps, method="gausslegendre")
    return found.sum(dim=-1)


def _logits(model: Any) -> Any:
    return lambda first, mask=None: (model(first) if mask is None else model(first, mask)).logits
