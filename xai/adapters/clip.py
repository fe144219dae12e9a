"""CLIP of open_clip and of transformers: modalities "image" and "text", two towers that meet in their similarity.

The image head reads the class token, the text head the end token; their rows lie in different blocks of the joint axis.
Both builders take the towers to explain, for calls with an image or a text alone.
"""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xai.adapters.common import before_grid, joined, patch_grid, side_by_side, stack
from xai.adapters.vit import mean_from
from xai.recording.adapter import Adapter, Layout, Site, Stream, at
from xai.recording.head import Head

IMAGE: Stream = ("image",)
TEXT: Stream = ("text",)
Part = Callable[[Mapping[str, Any], int], Layout]  # of one tower: the arguments of forward, number of tokens
BOTH = ("image", "text")
End = tuple[
    Any, str, nn.Module, Any
]  # of a tower: its last layer, that layer's second norm by name, last norm, projection


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
    ends: dict[str, End] = {"text": (text.transformer.resblocks[-1], "ln_2", text.ln_final, text.text_projection)}
    if pool == "tok":
        ends["image"] = model.visual.transformer.resblocks[-1], "ln_2", model.visual.ln_post, model.visual.proj
    return _adapter(
        model,
        sites,
        ends,
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
    image, text = model.vision_model, model.text_model
    return _adapter(
        model,
        sites,
        {
            "image": (image.encoder.layers[-1], "layer_norm2", image.post_layernorm, model.visual_projection),
            "text": (text.encoder.layers[-1], "layer_norm2", text.final_layer_norm, model.text_projection),
        },
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


def _adapter(model: nn.Module, sites: dict[str, list[Site]], ends: dict[str, End], image: Part, text: Part) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        parts = [(IMAGE, image), (TEXT, text)]
        return joined([part(inputs, sizes[stream]) for stream, part in parts if stream in sizes])

    def heads(inputs: Mapping[str, Any]) -> tuple[Head, ...]:
        return tuple(_head(model, name, sites[name], ends[name]) for name in sites if name in ends)

    return Adapter(side_by_side(*sites.values()), layout, heads=heads)


def _head(model: nn.Module, tower: str, sites: list[Site], end: End) -> Head:
    layer, norm_of_layer, norm, projection = end

    def forward(states: Tensor) -> Tensor:
        change = layer.mlp(getattr(layer, norm_of_layer)(states))
        return states + (layer.ls_2(change) if hasattr(layer, "ls_2") else change)

    def project(features: Tensor) -> Tensor:
        if projection is None:
            return features
        return projection(features) if isinstance(projection, nn.Module) else features @ projection

    attentions, said = frozenset(site.module for site in sites), partial(_said, model, tower)
    return Head(model, attentions, norm, project, said, pooled=True, unit=True, forward=forward)


def _said(model: Any, tower: str, read: Tensor, output: Any) -> Any:
    """Outputs with other embeddings of a tower's inputs."""
    if isinstance(output, tuple):  # of open_clip: image, text, scale
        return (read, *output[1:]) if tower == "image" else (output[0], read, *output[2:])
    other = copy(output)
    if "logits_per_image" not in output:
        other[f"{tower}_features"] = read
        return other
    other[f"{tower}_embeds"] = read
    other["logits_per_image"] = model.logit_scale.exp() * other["image_embeds"] @ other["text_embeds"].mT
    other["logits_per_text"] = other["logits_per_image"].mT
    return other
