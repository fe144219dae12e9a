"""CLIP's image tower of open_clip as transformers' classes have it: its sizes, weights and preprocessing."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from clipmapper.models.clip import FrozenCLIP


def pixels_of(processor: Any, image: Image.Image) -> Float[Tensor, "3 H W"]:
    """An image as a processor gives it."""
    return processor(image, return_tensors="pt")["pixel_values"][0]


def image_options(clip: FrozenCLIP) -> dict[str, Any]:
    """CLIP's preprocessing as options of transformers' CLIPImageProcessor."""
    has, (height, width) = clip.preprocess_config, clip.model.visual.image_size
    if height != width or (has["interpolation"], has["resize_mode"]) != ("bicubic", "shortest"):
        raise ValueError(
            f"CLIP model {clip.name} cuts and scales images otherwise than OpenAI's; choose a ViT-* model of openai"
        )
    return {
        "size": {"shortest_edge": height},
        "crop_size": {"height": height, "width": width},
        "image_mean": list(has["mean"]),
        "image_std": list(has["std"]),
    }


def blip_image_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same of BlipImageProcessor, which stretches images rather than cut them."""
    return {"size": options["crop_size"], **{name: options[name] for name in ("image_mean", "image_std")}}


def tower_options(visual: Any) -> dict[str, Any]:
    """The sizes of open_clip's image tower, as transformers' configurations of CLIP and BLIP name them.

    Raises ValueError for one that is built otherwise.
    """
    block = visual.transformer.resblocks[0]
    activations = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
    activation = activations.get(type(block.mlp.gelu).__name__)
    plain = all(isinstance(part, nn.Identity) for part in (block.ls_1, block.ls_2, visual.patch_dropout))
    if activation is None or not plain or not isinstance(visual.ln_pre, nn.LayerNorm) or len({*visual.grid_size}) > 1:
        raise ValueError(
            "model.clip: its image tower is not built as OpenAI's, so transformers has no class for it; choose a ViT-* model"
        )
    return {
        "hidden_size": visual.conv1.out_channels,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(visual.transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": visual.image_size[0],
        "patch_size": visual.patch_size[0],
        "hidden_act": activation,
        "layer_norm_eps": visual.ln_pre.eps,
    }


def as_clip_tower(visual: Any) -> dict[str, Tensor]:
    """The weights of open_clip's image tower by their names in transformers' CLIPVisionModel."""
    state = _layers(visual, "post_layernorm")
    state["embeddings.class_embedding"] = visual.class_embedding
    state["embeddings.patch_embedding.weight"] = visual.conv1.weight
    state["embeddings.position_embedding.weight"] = visual.positional_embedding
    state |= _named("pre_layrnorm", visual.ln_pre)
    for i, block in enumerate(visual.transformer.resblocks):
        parts = zip("qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        for name, weight, bias in parts:
            projection = f"encoder.layers.{i}.self_attn.{name}_proj"
            state |= {f"{projection}.weight": weight, f"{projection}.bias": bias}
        state |= _named(f"encoder.layers.{i}.self_attn.out_proj", block.attn.out_proj)
    return state


@torch.no_grad()
def as_blip_tower(visual: Any) -> dict[str, Tensor]:
    """Weights for transformers' BlipVisionModel with which it comes near to open_clip's image tower."""
    state = _layers(visual, "post_layernorm")
    norm, places = visual.ln_pre, visual.positional_embedding
    even = torch.randn(64, 3, 1, 1, generator=torch.Generator().manual_seed(0))  # patches of one colour, as most are
    patches = visual.conv1(even.expand(-1, -1, *visual.patch_size))[:, None, :, 0, 0] + places[1:]
    length = patches.std(dim=-1, correction=0).mean()

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(dim=-1, keepdim=True)) / length * norm.weight

    weight = visual.conv1.weight
    state["embeddings.class_embedding"] = normed(visual.class_embedding)[None, None]
    state["embeddings.patch_embedding.weight"] = normed(weight.flatten(1).T).T.reshape(weight.shape)
    state["embeddings.patch_embedding.bias"] = torch.zeros(len(weight))
    state["embeddings.position_embedding"] = (normed(places) + norm.bias)[None]
    for i, block in enumerate(visual.transformer.resblocks):
        qkv = f"encoder.layers.{i}.self_attn.qkv"
        state |= {f"{qkv}.weight": block.attn.in_proj_weight, f"{qkv}.bias": block.attn.in_proj_bias}
        state |= _named(f"encoder.layers.{i}.self_attn.projection", block.attn.out_proj)
    return state


def _layers(visual: Any, last: str) -> dict[str, Tensor]:
    """What both towers call alike: norms and feed-forward layers."""
    state = _named(last, visual.ln_post)
    for i, block in enumerate(visual.transformer.resblocks):
        layer = f"encoder.layers.{i}"
        state |= _named(f"{layer}.layer_norm1", block.ln_1) | _named(f"{layer}.layer_norm2", block.ln_2)
        state |= _named(f"{layer}.mlp.fc1", block.mlp.c_fc) | _named(f"{layer}.mlp.fc2", block.mlp.c_proj)
    return state


def _named(name: str, part: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in part.state_dict().items()}
