"""torchcam's LeGrad on torchvision's ViT.

Ours differentiates the model's own target through all layers at once. Torchcam, as the paper, differentiates a score of
each layer's own; of the last layer, by the model's own head, both are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchcam.methods import LeGrad
from torchvision.models import VisionTransformer

from benchmarks.machine import DEVICE
from benchmarks.models import SEED
from benchmarks.peers.contest import Contest
from xai import explain, given


def contests(quick: bool) -> list[Contest]:
    torch.manual_seed(SEED)
    size = (32, 8, 2, 2, 32, 64) if quick else (224, 32, 12, 12, 768, 3072)
    model = VisionTransformer(*size).eval().requires_grad_(False)
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)  # zero as it is made
    model.to(DEVICE)
    pixels = torch.randn(2 if quick else 4, 3, size[0], size[0]).to(DEVICE)

    def own_head(tokens: Tensor) -> Tensor:
        return model.heads(model.encoder.ln(tokens)[:, 0])

    layers = list(model.encoder.layers)
    return [
        Contest(
            "ViT-B/32, LeGrad of the last layer",
            partial(_ours, model, pixels, 1),
            partial(_theirs, model, pixels, layers[-1:], own_head),
        ),
        Contest(
            "ViT-B/32, LeGrad of all layers",
            partial(_ours, model, pixels, None),
            partial(_theirs, model, pixels, layers, None),
            "other scores: the target here, a score of each layer's mean token there",
        ),
    ]


def _ours(model: VisionTransformer, pixels: Tensor, last: int | None) -> Tensor:
    return explain(model, pixels, "legrad", given(0), last=last).map("image").flatten(1)


def _theirs(model: VisionTransformer, pixels: Tensor, layers: Any, head: Callable[[Tensor], Tensor] | None) -> Tensor:
    with LeGrad(model, layers, score_projection=head) as method:
        scores = model(pixels.clone().requires_grad_())
        return method(0, scores, normalized=False)[0].flatten(1).detach()
