"""CLIP of open_clip and of transformers: modalities "image" and "text", two towers that meet in their similarity.

The image head reads the class token, the text head the end token; their rows lie in different blocks of the joint axis.
Both builders take the towers to explain, for calls with an image or a text alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xai.adapters.common import before_grid, joined, patch_grid, side_by_side, stack
from xai.adapters.vit import mean_from
from xai.recording.adapter import Adapter, Layout, Site, Stream, at

IMAGE: Stream = ("image",)
TEXT: Stream = ("text",)
Part = Callable[[Mapping[str, Any], int], Layout]  # of one tower: the arguments of forward, number of tokens
BOTH = ("image", "text")


def open_clip(model: Any, towers: tuple[str, ...] = BOTH) -> Adapter:
    """Raises ValueError for towers that are no plain ones, and for poolings it does not know."""
    text = getattr(model, "text", model)
    pool = getattr(model.visual, "pool_type", None)
    if "image" in towers and (pool not in ("tok", "avg") or model.visual.attn_pool is not None):
        tower = f"{type(model.visual).__name__} (pooling {pool!r})"
        raise ValueError(f"the image tower {tower} is no plain ViT; explain a ViT-* model")
    plain = hasattr(text, "token_embedding") and text.attn_mask is not None and getattr(text, "cls_emb", None) is None
    if "text" in towers and not plain:
        raise ValueError(
            f"the text tower {type(text).__name__} is not CLIP's: it is no causal one, or has a class token of its own"
        )
    layers = {
        "image": "visual.transformer.resblocks",
        "text": ("" if text is model else "text.") + "transformer.resblocks",
    }
    sites = {name: stack(model, layers[name], (name,), "attn", "ln_1", "ls_1") for name in towers}
    # the names differ between CLIP, which holds its text layers itself, and CustomTextCLIP
    text_pool, eos = (model.text_pool_type, model.text_eos_id) if text is model else (text.pool_type, text.eos_id)
    return _adapter(
        sites,
        lambda inputs, n: _image(n, patch_grid(inputs["image"], model.visual.patch_size), mean=pool == "avg"),
        lambda inputs, n: _text(n, pooled_position(inputs["text"], text_pool, eos)),
    )


def transformers_clip(model: Any, towers: tuple[str, ...] = BOTH) -> Adapter:
    """CLIPModel of transformers."""
    layers = {"image": "vision_model.encoder.layers", "text": "text_model.encoder.layers"}
    sites = {
        name: stack(model, layers[name], (name,), "self_attn", "layer_norm1", "self_attn.out_proj") for name in towers
    }
    eos = model.config.text_config.eos_token_id
    pool = "argmax" if eos == 2 else "eos"  # as in transformers: old configurations have a wrong end token
    patch = model.config.vision_config.patch_size
    return _adapter(
        sites,
        lambda inputs, n: _image(n, patch_grid(inputs["pixel_values"], patch), mean=False),
        lambda inputs, n: _text(n, pooled_position(inputs["input_ids"], pool, eos)),
    )


def pooled_position(ids: Tensor, pool: str, eos: int) -> Tensor:
    """The position [B] that the text head reads; raises ValueError for poolings it does not know."""
    if pool == "argmax":
        return ids.argmax(dim=-1)
    if pool == "eos":
        return ids.eq(eos).int().argmax(dim=-1)
    raise ValueError(f"text pooling is {pool!r}; the adapter knows 'argmax' and 'eos'")


def _image(length: int, grid: tuple[int, int], mean: bool) -> Layout:
    readout = mean_from(1, length) if mean else at(0, length)
    return Layout({"image": length}, {"image": readout}, {}, {"image": before_grid(length, grid)}, {"image": grid})


def _text(length: int, ends: Tensor) -> Layout:
    """Start token, words, end token; what comes after is padding."""
    positions, end = torch.arange(length, device=ends.device), ends[:, None]
    special = (positions == 0) | (positions == end)
    return Layout({"text": length}, {"text": at(ends, length)}, {"text": positions <= end}, {"text": special})


def _adapter(sites: dict[str, list[Site]], image: Part, text: Part) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        parts = [(IMAGE, image), (TEXT, text)]
        return joined([part(inputs, sizes[stream]) for stream, part in parts if stream in sizes])

    return Adapter(side_by_side(*sites.values()), layout)
