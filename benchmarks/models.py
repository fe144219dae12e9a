"""The models that are measured, on the device: usual sizes with random weights, or tiny ones for a quick run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from benchmarks.machine import DEVICE
from clipmapper.models.clip import know_shapes

SEED = 0
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def vit(quick: bool, batch: int, **config: Any) -> tuple[ViTForImageClassification, Tensor]:
    """ViT-B/32 of transformers with its parameters frozen, and pixels; `config` changes its configuration."""
    torch.manual_seed(SEED)
    base = {**TINY, "image_size": 32, "patch_size": 8} if quick else {"patch_size": 32}
    settings: Any = ViTConfig(**{**base, "num_labels": 1000, "attn_implementation": "sdpa", **config})
    model: Any = ViTForImageClassification(settings).eval().requires_grad_(False)
    return model.to(DEVICE), torch.randn(batch, 3, settings.image_size, settings.image_size).to(DEVICE)


def bert(
    quick: bool, batch: int, tokens: int, **config: Any
) -> tuple[BertForSequenceClassification, dict[str, Tensor]]:
    """BERT of base size with its parameters frozen, and unpadded inputs of so many tokens."""
    torch.manual_seed(SEED)
    settings = BertConfig(**{**(TINY if quick else {}), "attn_implementation": "sdpa", **config})
    model: Any = BertForSequenceClassification(settings).eval().requires_grad_(False)
    ids = torch.randint(1000, 20000, (batch, tokens)).to(DEVICE)
    return model.to(DEVICE), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def clip(name: str, batch: int) -> tuple[Any, tuple[Tensor, Tensor]]:
    """open_clip's model with random weights and its parameters frozen, images and texts without padding."""
    know_shapes(name)
    torch.manual_seed(SEED)
    model = open_clip.create_model(name).eval().requires_grad_(False).to(DEVICE)
    text = torch.randint(1, 40000, (batch, model.context_length))
    text[:, -1] = 49407
    return model, (pixels_for(model, batch), text.to(DEVICE))


def pixels_for(model: Any, batch: int) -> Tensor:
    """Images [batch, 3, rows, columns] of noise, as large as open_clip's model takes them."""
    side = model.visual.image_size
    return torch.randn(batch, 3, *(side if isinstance(side, tuple) else (side, side))).to(DEVICE)


@contextmanager
def graph_from_embeddings(model: Any) -> Iterator[None]:
    """In its body the embeddings ask for a gradient, as the frozen parameters of a model of transformers do not."""
    handle = model.base_model.embeddings.register_forward_hook(lambda module, args, out: out.requires_grad_())
    try:
        yield
    finally:
        handle.remove()


def forward_backward(model: nn.Module, pixels: Tensor) -> None:
    """One pass each way, to the pixels, through the model as it is."""
    pixels = pixels.clone().requires_grad_()
    torch.autograd.grad(model(pixels).logits[:, 0].sum(), pixels)
