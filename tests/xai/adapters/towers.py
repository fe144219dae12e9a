"""Tiny models of open_clip and timm that have no table, towers of one library inside a model of the other among them."""

from collections.abc import Callable
from typing import Any

import open_clip
import timm
import torch
import transformers as tf
from open_clip.hf_model import HFTextEncoder
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from xai import Target, given, similarity

from ..conftest import IMAGE, TINY, Family, clip_text, pixels, words

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
VISION = {**IMAGE, "width": 16, "layers": 3, "head_width": 8}
TEXT = {"context_length": 7, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
TOKENS = {"embed_cls": True, "output_tokens": True}
CAPTION = Target("next word", lambda outputs: outputs["logits"][:, 3, 5])


def timm_model(cls: Any, **options: Any) -> Family:
    return Family(cls(**SIZES, num_classes=4, **options), {"x": pixels()}, given(torch.tensor([1, 2])))


def two_towers(**text: Any) -> Any:
    return open_clip.model.CustomTextCLIP(embed_dim=8, vision_cfg=VISION, text_cfg={**TEXT, **text})


def pair(model: nn.Module, target: Target | None = None) -> Family:
    return Family(model, {"image": pixels(), "text": clip_text()}, target or similarity())


def of_timm(trunk: nn.Module, **text: Any) -> Family:
    """A tower of timm, which open_clip would make by the name of a full-sized one."""
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None}
    model = open_clip.model.CustomTextCLIP(embed_dim=8, vision_cfg=vision, text_cfg={**TEXT, **text})
    model.visual.trunk = trunk
    return pair(model)


def of_transformers() -> Family:
    """A text tower of transformers, from its configuration: nothing is downloaded."""
    model = two_towers()
    model.text = HFTextEncoder("", 8, tf.XLMRobertaConfig(vocab_size=40, pad_token_id=0, **TINY), "mean_pooler", "mlp")
    return Family(model, {"image": pixels(), "text": words()["input_ids"]}, similarity())


def coca(target: Target) -> Family:
    """Of its three queries the first is the image's embedding, and its captions read the others."""
    pooling = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 3, "output_tokens": True}
    decoder = {**TEXT, "attn_pooler_heads": 2}
    return pair(open_clip.coca_model.CoCa(16, decoder, {**TEXT, **TOKENS}, {**VISION, **pooling}), target)


def naflex(places: list[list[list[int]]], pool: str, **options: Any) -> Family:
    """Six patches of images of any size, given one by one with their rows and columns; those that repeat [0, 0] are padding."""
    config = NaFlexVitCfg(
        patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.5, pos_embed_grid_size=(4, 4), global_pool=pool, **options
    )  # fmt: skip
    where = torch.tensor(places)
    inputs = {
        "x": torch.randn(2, 6, 3 * 64, generator=torch.Generator().manual_seed(1)),
        "patch_coord": where,
        "patch_valid": (torch.arange(6) == 0) | where.any(dim=-1),
    }
    return Family(NaFlexVit(config, num_classes=4), inputs, given(torch.tensor([1, 2])))


WIDE, SMALL = (
    [[row, column] for row in (0, 1) for column in (0, 1, 2)],
    [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [0, 0]],
)
TOWERS: dict[str, Callable[[], Family]] = {
    "timm EVA-02": lambda: timm_model(timm.models.eva.Eva, use_rot_pos_emb=True, swiglu_mlp=True),
    "timm BEiT": lambda: timm_model(timm.models.beit.Beit, use_rel_pos_bias=True),
    "CaiT": lambda: timm_model(timm.models.cait.Cait, init_values=0.5),
    "timm SigLIP": lambda: timm_model(VisionTransformer, global_pool="map", class_token=False),
    "timm, registers": lambda: timm_model(VisionTransformer, reg_tokens=2),
    "timm, relative positions": lambda: timm_model(VisionTransformerRelPos),
    "timm, relative positions by an MLP": lambda: timm_model(
        VisionTransformerRelPos, rel_pos_type="mlp", class_token=True, global_pool="token"
    ),
    "timm NaFlex": lambda: naflex([WIDE, SMALL], "token", class_token=True, reg_tokens=1),
    "timm NaFlex, map": lambda: naflex([WIDE, WIDE], "map", class_token=False),
    "open_clip SigLIP": lambda: of_timm(
        VisionTransformer(**SIZES, num_classes=8, global_pool="map", class_token=False),
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
    ),
    "open_clip, timm tower": lambda: of_timm(VisionTransformer(**SIZES, num_classes=8)),
    "open_clip EVA-02": lambda: of_timm(
        timm.models.eva.Eva(**SIZES, num_classes=8, global_pool="token", use_rot_pos_emb=True, swiglu_mlp=True)
    ),
    "open_clip XLM-R": of_transformers,
    "open_clip, class token of the text": lambda: pair(two_towers(embed_cls=True)),
    "open_clip CoCa": lambda: coca(similarity()),
    "open_clip CoCa captions": lambda: coca(CAPTION),
}
