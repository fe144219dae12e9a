"""LXT's efficient rules: CP-LRP on torchvision's ViT, which it supports, and AttnLRP on transformers' ViT by its patches.

`import lxt.efficient` needs transformers 4 (its copy of BERT imports `find_pruneable_heads_and_indices`, which
transformers 5 has not) and zennit; its rules do not, so they are loaded without the package's `__init__`. LXT's patches of
classes have no inverse; here they are taken back after each run, so that ours sees the stock model.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from transformers.activations import GELUActivation
from transformers.models.vit import modeling_vit

from benchmarks.machine import DEVICE
from benchmarks.models import SEED, vit
from benchmarks.peers.contest import Contest
from xai import explain, given

CLASSES: tuple[Any, ...] = (nn.LayerNorm, nn.GELU, nn.MultiheadAttention, GELUActivation)


def contests(quick: bool) -> list[Contest]:
    patches, supported = _of_lxt("patches"), _of_lxt("models.vit_torch")
    torch.manual_seed(SEED)
    size = (32, 8, 2, 2, 32, 64) if quick else (224, 32, 12, 12, 768, 3072)
    torchvision = VisionTransformer(*size).eval().requires_grad_(False)
    nn.init.normal_(torchvision.heads.head.weight, std=0.02)  # zero as it is made
    torchvision.to(DEVICE)
    stock, pixels = vit(quick, 2 if quick else 4, attn_implementation="eager")
    return [
        Contest(
            "torchvision ViT-B/32, CP-LRP",
            partial(_ours, torchvision, pixels, "cp_lrp"),
            partial(_theirs, torchvision, pixels, torchvision.encoder.dropout, _patched(supported.cp_LRP)),
        ),
        Contest(
            "transformers ViT-B/32, AttnLRP",
            partial(_ours, stock, pixels, "attn_lrp"),
            partial(_theirs, stock, pixels, stock.vit.embeddings, _patched(_attn_lrp(patches))),
        ),
    ]


def _of_lxt(name: str) -> Any:
    """A module of lxt.efficient, without what its packages import."""
    spec = find_spec("lxt")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("No module named 'lxt'")
    for package in ("efficient", "efficient.models"):
        bare = ModuleType(f"lxt.{package}")
        bare.__path__ = [str(Path(spec.submodule_search_locations[0], *package.split(".")))]
        sys.modules.setdefault(bare.__name__, bare)
    return import_module(f"lxt.efficient.{name}")


def _attn_lrp(patches: Any) -> dict[Any, Callable[[Any], object]]:
    """LXT's patches for AttnLRP, of the classes of transformers' ViT."""

    def attention(module: Any) -> None:
        module.eager_attention_forward = patches.wrap_attention_forward(module.eager_attention_forward)

    return {
        nn.LayerNorm: partial(patches.patch_method, patches.layer_norm_forward),
        GELUActivation: partial(patches.patch_method, patches.non_linear_forward, keep_original=True),
        modeling_vit: attention,
    }


def _patched(changes: dict[Any, Callable[[Any], object]]) -> Any:
    @contextmanager
    def patching() -> Iterator[None]:
        forwards, eager = [kind.forward for kind in CLASSES], modeling_vit.eager_attention_forward
        for target, change in changes.items():
            change(target)
        try:
            yield
        finally:
            modeling_vit.eager_attention_forward = eager
            for kind, forward in zip(CLASSES, forwards, strict=True):
                kind.forward = forward

    return patching


def _ours(model: nn.Module, pixels: Tensor, method: str) -> Tensor:
    return explain(model, pixels, method, given(0)).scores["image"]


def _theirs(model: nn.Module, pixels: Tensor, embeddings: nn.Module, patching: Any) -> Tensor:
    """Input times modified gradient, read at the embeddings as ours is."""
    found: list[Tensor] = []

    def start(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        found.append(out.detach().requires_grad_())
        return found[0]

    handle = embeddings.register_forward_hook(start)
    try:
        with patching():
            output = model(pixels)
            logits = output if isinstance(output, Tensor) else output.logits
            (slope,) = torch.autograd.grad(logits[:, 0].sum(), found[0])
    finally:
        handle.remove()
    return (slope * found[0].detach()).sum(dim=-1)
