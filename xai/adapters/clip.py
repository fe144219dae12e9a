"""CLIP of open_clip and of transformers: modalities "image" and "text", two towers that meet in their similarity.

The image head reads the class token, the text head the end token; their rows lie in different blocks of the joint axis.
Both builders take the towers to explain, for calls with an image or a text alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xai.adapter import Adapter, Layout, Site, Stream, at
from xai.adapters.common import side_by_side, stack
from xai.adapters.vit import mean_from

IMAGE: Stream = ("image",)
TEXT: Stream = ("text",)
BOTH = ("image", "text")


def open_clip(model: Any, towers: tuple[str, ...] = BOTH) -> Adapter:
    """Raises ValueError for image towers that are no plain ViT, and for poolings it does not know."""
    text = getattr(model, "text", model)
    pool = getattr(model.visual, "pool_type", None)
    if "image" in towers and pool not in ("tok", "avg"):
        tower = f"{type(model.visual).__name__} (pooling {pool!r})"
        raise ValueError(f"the image tower {tower} is no plain ViT; explain a ViT-* model")
    layers = {
        "image": "visual.transformer.resblocks",
        "text": ("" if text is model else "text.") + "transformer.resblocks",
    }
    sites = {name: stack(model, layers[name], (name,), "attn", "ln_1", "ls_1") for name in towers}
    # the names differ between CLIP, which holds its text layers itself, and CustomTextCLIP
    text_pool, eos = (model.text_pool_type, model.text_eos_id) if text is model else (text.pool_type, text.eos_id)
    return _adapter(sites, "text", lambda ids: pooled_position(ids, text_pool, eos), mean=pool == "avg")


def transformers_clip(model: Any, towers: tuple[str, ...] = BOTH) -> Adapter:
    """CLIPModel of transformers."""
    layers = {"image": "vision_model.encoder.layers", "text": "text_model.encoder.layers"}
    sites = {
        name: stack(model, layers[name], (name,), "self_attn", "layer_norm1", "self_attn.out_proj") for name in towers
    }
    eos = model.config.text_config.eos_token_id
    pool = "argmax" if eos == 2 else "eos"  # as in transformers: old configurations have a wrong end token
    return _adapter(sites, "input_ids", lambda ids: pooled_position(ids, pool, eos), mean=False)


def pooled_position(ids: Tensor, pool: str, eos: int) -> Tensor:
    """The position [B] that the text head reads; raises ValueError for poolings it does not know."""
    if pool == "argmax":
        return ids.argmax(dim=-1)
    if pool == "eos":
        return ids.eq(eos).int().argmax(dim=-1)
    raise ValueError(f"text pooling is {pool!r}; the adapter knows 'argmax' and 'eos'")


def _adapter(sites: dict[str, list[Site]], text_input: str, end: Callable[[Tensor], Tensor], mean: bool) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        lengths = {name: sizes[(name,)] for name in BOTH if name in sites}
        read, real = {}, {}
        if "image" in sites:
            read["image"] = mean_from(1, lengths["image"]) if mean else at(0, lengths["image"])
        if "text" in sites:
            ends = end(inputs[text_input])
            read["text"] = at(ends, lengths["text"])
            real["text"] = torch.arange(lengths["text"], device=ends.device) <= ends[:, None]
        return Layout(lengths, read, real)

    return Adapter(side_by_side(*sites.values()), layout)
