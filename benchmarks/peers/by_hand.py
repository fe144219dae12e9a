"""What users write today: transformers with eager attention and `output_attentions=True`, and the formulas by hand."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.models import bert, graph_from_embeddings, vit
from benchmarks.peers.contest import Contest
from xai import explain, given

Attentions = Sequence[Tensor]  # [B, H, T, T] of each layer
Formula = Callable[[Attentions, Attentions], Tensor]


def contests(quick: bool) -> list[Contest]:
    image, pixels = vit(quick, 2 if quick else 4, attn_implementation="eager")
    text, words = bert(quick, 2 if quick else 4, 12 if quick else 64, attn_implementation="eager")
    cases = [("ViT-B/32", image, {"pixel_values": pixels}), ("BERT", text, words)]
    return [
        Contest(f"{name}, {method}", partial(_ours, model, inputs, method), partial(_by_hand, model, inputs, method))
        for name, model, inputs in cases
        for method in FORMULAS
    ]


def _ours(model: nn.Module, inputs: dict[str, Tensor], method: str) -> Tensor:
    found = explain(model, inputs, method, given(0))
    return torch.cat([*found.scores.values()], dim=1)


def _by_hand(model: nn.Module, inputs: dict[str, Tensor], method: str) -> Tensor:
    with graph_from_embeddings(model):
        outputs = model(**inputs, output_attentions=True)
    formula, needs_gradients = FORMULAS[method]
    gradients = torch.autograd.grad(outputs.logits[:, 0].sum(), outputs.attentions) if needs_gradients else ()
    return formula([A.detach() for A in outputs.attentions], gradients)[:, 0]


def _last(A: Attentions, gradients: Attentions) -> Tensor:
    return A[-1].mean(dim=1)


def _rollout(A: Attentions, gradients: Attentions) -> Tensor:
    R = one = torch.eye(A[0].shape[-1], device=A[0].device)
    for attention in A:
        M = attention.mean(dim=1) + one
        R = M / M.sum(dim=-1, keepdim=True) @ R
    return R


def _genatt(A: Attentions, gradients: Attentions) -> Tensor:
    R = torch.eye(A[0].shape[-1], device=A[0].device)
    for attention, slope in zip(A, gradients, strict=True):
        R = R + (slope * attention).clamp(min=0).mean(dim=1) @ R
    return R


FORMULAS: dict[str, tuple[Formula, bool]] = {  # and whether it needs gradients
    "raw_attention": (_last, False),
    "rollout": (_rollout, False),
    "genatt": (_genatt, True),
}
