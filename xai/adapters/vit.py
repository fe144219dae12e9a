"""Vision transformers of transformers (ViT, DeiT, DINOv2), timm and torchvision. One modality, "image"."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai.adapters.common import before_grid, patch_grid, prefix_of, side_by_side, stack
from xai.recording.adapter import Adapter, Layout, Site, Stream, at

IMAGE: Stream = ("image",)
Grid = Callable[[Mapping[str, Any]], tuple[int, int]]  # the arguments of forward to rows and columns of patches


def vit(model: Any) -> Adapter:
    """ViT and DeiT; the head reads the class token."""
    return _adapter(_vit_sites(model), _class_token, _pixel_values(model))


def two_headed_vit(model: Any) -> Adapter:
    """DeiT whose answer is the mean of a head on the class token and one on the distillation token."""
    return _adapter(_vit_sites(model), _two_tokens, _pixel_values(model))


def dinov2(model: Any) -> Adapter:
    """DINOv2, with registers or without; the classifier reads the class token and the mean of the patches side by side."""
    layers = prefix_of(model) + "encoder.layer"
    sites = stack(model, layers, IMAGE, module="attention", residual="norm1", output="layer_scale1")
    if not hasattr(model, "classifier"):
        return _adapter(sites, _class_token, _pixel_values(model))
    patches = 1 + getattr(model.config, "num_register_tokens", 0)
    return _adapter(sites, lambda length: (_class_token(length) + mean_from(patches, length)) / 2, _pixel_values(model))


def timm_vit(model: Any) -> Adapter:
    """timm's VisionTransformer; raises ValueError where its pooling is neither of the class token nor the mean."""
    if model.global_pool == "token":
        return _adapter(_timm_sites(model), _class_token, _timm_grid(model))
    if model.global_pool == "avg":
        return _adapter(
            _timm_sites(model), lambda length: mean_from(model.num_prefix_tokens, length), _timm_grid(model)
        )
    raise ValueError(f"global_pool is {model.global_pool!r}; the adapter knows 'token' and 'avg'")


def two_headed_timm_vit(model: Any) -> Adapter:
    """timm's distilled DeiT."""
    return _adapter(_timm_sites(model), _two_tokens, _timm_grid(model))


def torchvision_vit(model: Any) -> Adapter:
    sites = stack(model, "encoder.layers", IMAGE, module="self_attention", residual="ln_1", output="dropout")
    return _adapter(sites, _class_token, lambda inputs: patch_grid(inputs["x"], model.patch_size))


def _timm_sites(model: nn.Module) -> list[Site]:
    return stack(model, "blocks", IMAGE, module="attn", residual="norm1", output="ls1")


def _class_token(length: int) -> Tensor:
    return at(0, length)


def _two_tokens(length: int) -> Tensor:
    return (at(0, length) + at(1, length)) / 2


def mean_from(start: int, length: int) -> Tensor:
    """Read weights [1, length] of a head that reads the mean of the tokens from `start` on."""
    return (torch.arange(length) >= start).float()[None] / (length - start)


def _vit_sites(model: nn.Module) -> list[Site]:
    layers = prefix_of(model) + "layers"
    return stack(model, layers, IMAGE, module="attention", residual="layernorm_before", output="attention.o_proj")


def _pixel_values(model: Any) -> Grid:
    return lambda inputs: patch_grid(inputs["pixel_values"], model.config.patch_size)


def _timm_grid(model: Any) -> Grid:
    return lambda inputs: model.patch_embed.dynamic_feat_size(tuple(inputs["x"].shape[-2:]))


def _adapter(sites: list[Site], readout: Callable[[int], Tensor], grid_of: Grid) -> Adapter:
    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        length, grid = sizes[IMAGE], grid_of(inputs)
        special = before_grid(length, grid)
        return Layout({"image": length}, {"image": readout(length)}, {}, {"image": special}, {"image": grid})

    return Adapter(side_by_side(sites), layout)
