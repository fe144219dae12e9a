"""Tiny stock models of families that have no table; SEEING are language models with image tokens inside their text."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from torch import Tensor, nn
from torchvision.models import swin_transformer as torchvision_swin

from xai import Target, detection, given, similarity

from ..conftest import IMAGE, TINY, Family, clip_text, pixels, prepared, shorter, words
from .towers import TOWERS

TEXT: dict[str, Any] = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **TINY}
VISION: dict[str, Any] = {**TINY, **IMAGE}
NEXT = Target("next word", lambda outputs: outputs.logits[:, 3, 5])


def text(cls: Any, target: Target | None = None, sizes: dict[str, Any] = TEXT, **options: Any) -> Family:
    labels = {"num_labels": 3} if target is None else {}
    model = cls(cls.config_class(**sizes, **labels, **options))
    return Family(model, words(), target or given(torch.tensor([1, 2])), shorter)


def mixture(cls: Any, **experts: int) -> Family:
    """Two experts for each token. Their products of groups are of single precision at most."""
    family = text(cls, NEXT, num_experts_per_tok=2, **ROTARY, **experts)
    family.model.set_experts_implementation("eager")  # type: ignore[operator]
    return family


def image(cls: Any, **options: Any) -> Family:
    return Family(cls(cls.config_class(**VISION, **options)), {"pixel_values": pixels()}, given(torch.tensor([1, 2])))


def pair(model: nn.Module, target: Target) -> Family:
    return Family(model, {**words(), "pixel_values": pixels()}, target)


def of(name: str, part: Callable[[Any], Tensor]) -> Target:
    return Target(name, part)


def decoded(model: nn.Module) -> Family:
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(5))  # as long as the encoder's text
    return Family(model, {**words(), "decoder_input_ids": ids}, NEXT)


def answered(model: nn.Module) -> Family:
    """It returns no logits, but the mean loss of the answer: of one sample that is its own."""
    one, answer = (
        {name: x[:1] for name, x in {**words(), "pixel_values": pixels()}.items()},
        torch.tensor([[1, 5, 6]]),
    )
    loss = Target("answer", lambda outputs: -outputs.loss.reshape(1))
    return Family(model, {**one, "decoder_input_ids": answer, "labels": answer}, loss)


def objects(cls: Any) -> Family:
    """One query for each image."""
    sizes = {"text_config": {**TEXT, "max_position_embeddings": 16}, "vision_config": VISION, "projection_dim": 16}
    ids = clip_text()
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": pixels()}
    return Family(cls(cls.config_class(**sizes)), inputs, Target("box", lambda outputs: outputs.logits[:, 2, 0]))


def towers(config: Any) -> Any:
    return config(text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION)


BLIP_TEXT = {**TEXT, "encoder_hidden_size": 16, "sep_token_id": 3}
BART = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
GPT_2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
OPT = {**{k: v for k, v in TEXT.items() if k != "intermediate_size"}, "ffn_dim": 24, "word_embed_proj_dim": 16}
ROTARY = {"num_key_value_heads": 1}
LANGUAGE = {**TEXT, "head_dim": 8, "num_key_value_heads": 1}
AUDIO = {"max_length": 16, "num_mel_bins": 8}
PATCHES = {**TINY, "image_size": 16, "patch_size": 4}  # 4 x 4, of which 2 x 2 are merged where a model merges
QFORMER = {"vocab_size": 40, "encoder_hidden_size": 16, "cross_attention_frequency": 1, **TINY}
IMAGE_TOKEN, FRAME_TOKEN = 39, 38
LAST = Target("last word", lambda outputs: outputs.logits[:, -1, 5])


def seeing(model: nn.Module, tokens: int, before: int = 2, images: Tensor | None = None, **more: Any) -> Family:
    """A language model with image tokens inside its text. `more` are arguments made from the ids."""
    batch = 1 if images is not None else 2
    ids = torch.tensor([[1, 5][:before] + [IMAGE_TOKEN] * tokens + [7, 8, 9]]).repeat(batch, 1)
    ids[:, -2] += torch.arange(batch)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels() if images is None else images,
    }
    if isinstance(model, (tf.Idefics3ForConditionalGeneration, tf.SmolVLMForConditionalGeneration)):
        inputs["pixel_values"] = inputs["pixel_values"][:, None]  # images of a sample
    return Family(model, inputs | {name: make(ids) if callable(make) else make for name, make in more.items()}, LAST)


def qwen(cls: Any, grid: tuple[int, int] = (4, 4), **vision: Any) -> Family:
    """Patches come row by row in blocks of 2 x 2, flat, of two frames."""
    patches = grid[0] * grid[1]
    sizes = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision}
    language = {
        **{k: v for k, v in LANGUAGE.items() if k != "head_dim"},
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }
    config = cls.config_class(
        vision_config=sizes, text_config=language, image_token_id=IMAGE_TOKEN, video_token_id=FRAME_TOKEN
    )
    return seeing(
        cls(config),
        patches // 4,
        images=flat_patches(patches),
        image_grid_thw=torch.tensor([[1, *grid]]),
        mm_token_type_ids=lambda ids: (ids == IMAGE_TOKEN).long(),
    )


def flat_patches(number: int) -> Tensor:
    return torch.randn(number, 3 * 2 * 16, generator=torch.Generator().manual_seed(1))


def qwen_frames(name: str, frames: int, apart: bool = False) -> Family:
    """A video of 4 x 4 patches; `apart` are words between its frames."""
    counts = (4,) * frames if apart else (4 * frames,)
    family = of_one_sample(SEEING[name]().model, flat_patches(16 * frames), counts, FRAME_TOKEN)
    kinds = 2 * (family.inputs["input_ids"] == FRAME_TOKEN)
    family.inputs["pixel_values_videos"] = family.inputs.pop("pixel_values")
    family.inputs |= {"video_grid_thw": torch.tensor([[frames, 4, 4]]), "mm_token_type_ids": kinds}
    return family


def qwen_images(name: str, number: int) -> Family:
    family = of_one_sample(SEEING[name]().model, flat_patches(16 * number), (4,) * number)
    kinds = (family.inputs["input_ids"] == IMAGE_TOKEN).long()
    family.inputs |= {"image_grid_thw": torch.tensor([[1, 4, 4]] * number), "mm_token_type_ids": kinds}
    return family


def of_windows(cls: Any, **options: Any) -> Family:
    """7 x 7 patches in windows of 3 x 3, those of every second layer shifted, then 4 x 4 made of 2 x 2. Borders are padded."""
    images = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    if hasattr(cls, "config_class"):
        sizes = {
            "image_size": 14,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 3,
        }
        return Family(
            cls(cls.config_class(**sizes, num_labels=4)), {"pixel_values": images}, given(torch.tensor([1, 2]))
        )
    sizes = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "num_classes": 4}
    model = cls(**sizes, **options)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)  # timm's Swin v2 starts with norms of zero, by which no attention is read
    return Family(model, {"x": images}, given(torch.tensor([1, 2])))


RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
SWIN: dict[str, Any] = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1] * 3, "num_heads": [1, 2, 2]}
SAMPLING: dict[str, Any] = {  # attention at two points of each of three levels; the last is a convolution of the second
    "d_model": 32, "num_feature_levels": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_n_points": 2, "decoder_n_points": 2, "num_queries": 3,
    **{f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 24))},
}  # fmt: skip


def deformable_detr() -> Family:
    backbone = tf.ResNetConfig(**RESNET, out_features=["stage1", "stage2"])
    config = tf.DeformableDetrConfig(backbone_config=backbone, num_labels=4, **SAMPLING)
    mask = torch.ones(2, 32, 24, dtype=torch.long)
    mask[1, 20:] = 0
    inputs = {"pixel_values": torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1)), "pixel_mask": mask}
    target = detection(torch.tensor([0, 2]), torch.tensor([1, 3]))
    return Family(tf.DeformableDetrForObjectDetection(config), inputs, target)


def grounding_dino() -> Family:
    """The object queries are where the encoder's image tokens are likest to the text."""
    backbone = tf.SwinConfig(**SWIN, window_size=4, out_features=["stage1", "stage2"])
    text = {"model_type": "bert", "vocab_size": 40, **TINY, "hidden_size": 32}
    config = tf.GroundingDinoConfig(backbone_config=backbone, text_config=text, max_text_len=9, **SAMPLING)
    model = tf.GroundingDinoForObjectDetection(config)
    model.model.special_tokens[:] = torch.tensor([1, 2, 38, 39])  # between phrases
    ids = torch.tensor([[1, 7, 8, 38, 9, 38, 2], [1, 7, 38, 2, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": pixels()}
    return Family(model, inputs, Target("word of a query", lambda outputs: outputs.logits[:, 1, 1], ("queries", 1)))


def three_images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def of_one_sample(
    model: nn.Module, images: Tensor, counts: tuple[int, ...], token: int = IMAGE_TOKEN, **more: Tensor
) -> Family:
    """Several images in one text, or their tiles, of these numbers of tokens, a word after each."""
    ids = [1, *(each for n in counts for each in (*[token] * n, 6)), 7, 8, 9]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": images,
    }
    return Family(model, inputs | more, LAST)


def tiled(cls: Any, vision: Any, language: Any) -> Family:
    """The whole image and two tiles side by side, whose rows end with a learned token."""
    config = cls.config_class(
        vision_config=vision,
        text_config=language,
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[[16, 32], [32, 16]],
    )
    sizes = torch.tensor([[16, 32]])
    return of_one_sample(cls(config), three_images()[None], (16 + 4 * (8 + 1),), image_sizes=sizes)


SEEING: dict[str, Callable[[], Family]] = {
    "LLaVA": lambda: seeing(
        tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(
                vision_config=tf.CLIPVisionConfig(**PATCHES),
                text_config=tf.LlamaConfig(**LANGUAGE),
                image_token_index=IMAGE_TOKEN,
            )
        ),
        16,
    ),
    "PaliGemma": lambda: seeing(
        tf.PaliGemmaForConditionalGeneration(
            tf.PaliGemmaConfig(
                vision_config=tf.SiglipVisionConfig(**PATCHES),
                text_config=tf.GemmaConfig(**LANGUAGE),
                image_token_index=IMAGE_TOKEN,
                projection_dim=16,
            )
        ),
        16,
        before=0,
        token_type_ids=torch.zeros_like,
    ),
    "Gemma 3 with images": lambda: seeing(
        tf.Gemma3ForConditionalGeneration(
            tf.Gemma3Config(
                text_config=tf.Gemma3TextConfig(
                    **LANGUAGE, layer_types=["sliding_attention", "full_attention"], sliding_window=4
                ),
                vision_config=tf.SiglipVisionConfig(**PATCHES),
                image_token_index=IMAGE_TOKEN,
                mm_tokens_per_image=4,
            )
        ),
        4,
        token_type_ids=lambda ids: (ids == IMAGE_TOKEN).long(),
    ),
    "InternVL": lambda: seeing(
        tf.InternVLForConditionalGeneration(
            tf.InternVLConfig(
                vision_config=tf.InternVLVisionConfig(**{**PATCHES, "image_size": [16, 16], "patch_size": [4, 4]}),
                text_config=tf.Qwen2Config(**LANGUAGE),
                image_token_id=IMAGE_TOKEN,
            )
        ),
        4,
    ),
    "Idefics3": lambda: seeing(
        tf.Idefics3ForConditionalGeneration(
            tf.Idefics3Config(
                vision_config=PATCHES,
                text_config=tf.LlamaConfig(**LANGUAGE),
                image_token_id=IMAGE_TOKEN,
                scale_factor=2,
            )
        ),
        4,
    ),
    "SmolVLM": lambda: seeing(
        tf.SmolVLMForConditionalGeneration(
            tf.SmolVLMConfig(
                vision_config=PATCHES,
                text_config=tf.LlamaConfig(**LANGUAGE),
                image_token_id=IMAGE_TOKEN,
                scale_factor=2,
            )
        ),
        4,
    ),
    "Qwen2-VL": lambda: qwen(tf.Qwen2VLForConditionalGeneration, embed_dim=16, hidden_size=16, mlp_ratio=2),
    "Qwen2.5-VL": lambda: qwen(
        tf.Qwen2_5_VLForConditionalGeneration,
        hidden_size=16,
        out_hidden_size=16,
        intermediate_size=24,
        window_size=16,
        fullatt_block_indexes=[1],
    ),
    "Qwen2.5-VL, windows": lambda: qwen(
        tf.Qwen2_5_VLForConditionalGeneration,
        (6, 10),  # windows of 4 x 4 patches, and what is left at the borders
        hidden_size=16,
        out_hidden_size=16,
        intermediate_size=24,
        window_size=16,
        fullatt_block_indexes=[1],
    ),
    "Qwen3-VL": lambda: qwen(
        tf.Qwen3VLForConditionalGeneration,
        hidden_size=16,
        out_hidden_size=16,
        intermediate_size=24,
        num_position_embeddings=16,
        deepstack_visual_indexes=[],
    ),
    "Idefics2": lambda: seeing(
        tf.Idefics2ForConditionalGeneration(
            tf.Idefics2Config(
                vision_config=PATCHES,
                perceiver_config={
                    "resampler_n_latents": 3,
                    "resampler_depth": 2,
                    "resampler_n_heads": 2,
                    "resampler_head_dim": 8,
                    "num_key_value_heads": 1,
                    "hidden_size": 16,
                },
                text_config=tf.MistralConfig(**LANGUAGE),
                image_token_id=IMAGE_TOKEN,
            )
        ),
        3,
        images=torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
    ),
    "InstructBLIP": lambda: seeing(
        tf.InstructBlipForConditionalGeneration(
            tf.InstructBlipConfig(
                vision_config=PATCHES,
                qformer_config=QFORMER,
                text_config=tf.OPTConfig(**OPT),
                num_query_tokens=4,
                image_token_index=IMAGE_TOKEN,
            )
        ),
        4,
        before=0,
        qformer_input_ids=lambda ids: torch.tensor([[1, 5, 7], [1, 6, 8]]),
        qformer_attention_mask=lambda ids: torch.ones(2, 3, dtype=torch.long),
    ),
    "BLIP-2": lambda: seeing(
        tf.Blip2ForConditionalGeneration(
            tf.Blip2Config(
                vision_config=PATCHES,
                qformer_config=QFORMER,
                text_config=tf.OPTConfig(**OPT),
                num_query_tokens=4,
                image_token_index=IMAGE_TOKEN,
                image_text_hidden_size=8,
            )
        ),
        4,
        before=0,
    ),
}
SEEING |= {
    "InternVL, three images": lambda: of_one_sample(SEEING["InternVL"]().model, three_images(), (4, 4, 4)),
    "Idefics3, three images": lambda: of_one_sample(SEEING["Idefics3"]().model, three_images()[None], (4, 4, 4)),
    "Qwen2-VL, three images": lambda: qwen_images("Qwen2-VL", 3),
    "Qwen2.5-VL, two images": lambda: qwen_images("Qwen2.5-VL", 2),
    "Qwen2-VL, video": lambda: qwen_frames("Qwen2-VL", 2),
    "Qwen2.5-VL, video": lambda: qwen_frames("Qwen2.5-VL", 3),
    "Qwen3-VL, video": lambda: qwen_frames("Qwen3-VL", 2, apart=True),
    "LLaVA-OneVision": lambda: tiled(
        tf.LlavaOnevisionForConditionalGeneration, tf.SiglipVisionConfig(**PATCHES), tf.Qwen2Config(**LANGUAGE)
    ),
    "LLaVA-NeXT": lambda: tiled(
        tf.LlavaNextForConditionalGeneration, tf.CLIPVisionConfig(**PATCHES), tf.LlamaConfig(**LANGUAGE)
    ),
}
TEXTS: dict[str, Callable[[], Family]] = {
    "GPT-2": lambda: text(tf.GPT2LMHeadModel, NEXT, GPT_2),
    "OPT": lambda: text(tf.OPTForCausalLM, NEXT, OPT),
    "GPT-NeoX": lambda: text(tf.GPTNeoXForCausalLM, NEXT),
    "Phi": lambda: text(tf.PhiForCausalLM, NEXT),
    "Phi-3": lambda: text(tf.Phi3ForCausalLM, NEXT),
    "Llama": lambda: text(tf.LlamaForCausalLM, NEXT, **ROTARY),
    "Mistral": lambda: text(tf.MistralForCausalLM, NEXT, **ROTARY),
    "Qwen2": lambda: text(tf.Qwen2ForCausalLM, NEXT, **ROTARY),
    "Qwen3": lambda: text(tf.Qwen3ForCausalLM, NEXT, head_dim=8, **ROTARY),
    "Gemma 2": lambda: text(tf.Gemma2ForCausalLM, NEXT, head_dim=8, sliding_window=4, **ROTARY),
    "Gemma": lambda: text(tf.GemmaForCausalLM, NEXT, head_dim=8, **ROTARY),
    "Gemma 3": lambda: text(tf.Gemma3ForCausalLM, NEXT, head_dim=8, sliding_window=4, **ROTARY),
    "Mixtral": lambda: mixture(tf.MixtralForCausalLM, num_local_experts=3),
    "Qwen2-MoE": lambda: mixture(
        tf.Qwen2MoeForCausalLM, num_experts=3, moe_intermediate_size=24, shared_expert_intermediate_size=24
    ),
    "Cohere": lambda: text(tf.CohereForCausalLM, NEXT, **ROTARY),
    "StableLM": lambda: text(tf.StableLmForCausalLM, NEXT, num_key_value_heads=2),
    "OLMo 2": lambda: text(tf.Olmo2ForCausalLM, NEXT, **ROTARY),
    "GPT-J": lambda: text(tf.GPTJForCausalLM, NEXT, GPT_2, rotary_dim=4),
    "BLOOM": lambda: text(tf.BloomForCausalLM, NEXT, {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}),
    "Falcon": lambda: text(tf.FalconForCausalLM, NEXT, {k: v for k, v in TEXT.items() if k != "intermediate_size"}),
    "XLM-R": lambda: text(tf.XLMRobertaForSequenceClassification),
    "CamemBERT": lambda: text(tf.CamembertForSequenceClassification),
    "ModernBERT": lambda: text(
        tf.ModernBertForSequenceClassification, local_attention=4, cls_token_id=1, sep_token_id=2
    ),
    "DeBERTa v2": lambda: text(
        tf.DebertaV2ForSequenceClassification,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        max_relative_positions=8,
        position_buckets=4,
    ),
    "ALBERT": lambda: text(tf.AlbertForSequenceClassification, embedding_size=8),
    "MPNet": lambda: text(tf.MPNetForSequenceClassification),
    "CLIP's text tower": lambda: text(
        tf.CLIPTextModelWithProjection, of("embedding", lambda out: out.text_embeds[:, 1]), projection_dim=8
    ),
}
TIMM_SWIN: dict[str, Any] = {"img_size": 14, "patch_size": 2, "window_size": 3}
TORCHVISION_SWIN: dict[str, Any] = {"patch_size": [2, 2], "window_size": [3, 3]}
WINDOWS: dict[str, Callable[[], Family]] = {
    "Swin": lambda: of_windows(tf.SwinForImageClassification),
    "Swin v2": lambda: of_windows(tf.Swinv2ForImageClassification),
    "timm Swin": lambda: of_windows(TimmSwin, **TIMM_SWIN),
    "timm Swin v2": lambda: of_windows(TimmSwinV2, **TIMM_SWIN),
    "torchvision Swin": lambda: of_windows(torchvision_swin.SwinTransformer, **TORCHVISION_SWIN),
    "torchvision Swin v2": lambda: of_windows(
        torchvision_swin.SwinTransformer,
        block=torchvision_swin.SwinTransformerBlockV2,
        downsample_layer=torchvision_swin.PatchMergingV2,
        **TORCHVISION_SWIN,
    ),
}
SAMPLED: dict[str, Callable[[], Family]] = {"Deformable DETR": deformable_detr, "Grounding DINO": grounding_dino}
SAM: dict[str, Any] = {
    **TINY,
    "image_size": 14,
    "patch_size": 2,
    "window_size": 3,
    "global_attn_indexes": [1],
    "mlp_dim": 24,
}
VITDET: dict[str, Any] = {
    **{name: size for name, size in SAM.items() if name not in ("global_attn_indexes", "mlp_dim", "intermediate_size")},
    "pretrain_image_size": 14,
    "window_block_indices": [0],
    "use_relative_position_embeddings": True,
}
STOCK: dict[str, Callable[[], Family]] = TEXTS | {
    "BEiT": lambda: image(tf.BeitForImageClassification, num_labels=4, use_relative_position_bias=True),
    "DINOv3": lambda: Family(
        tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**VISION, num_register_tokens=2)),
        {"pixel_values": pixels()},
        of("class token", lambda out: out.pooler_output[:, 1]),
    ),
    "I-JEPA": lambda: image(tf.IJepaForImageClassification, num_labels=4),
    "ViT MSN": lambda: image(tf.ViTMSNForImageClassification, num_labels=4),
    "Data2Vec": lambda: image(tf.Data2VecVisionForImageClassification, num_labels=4),
    "YOLOS": lambda: Family(
        tf.YolosForObjectDetection(
            tf.YolosConfig(**{**VISION, "image_size": [16, 16]}, num_detection_tokens=3, num_labels=3)
        ),
        {"pixel_values": pixels()},
        of("second object", lambda out: out.logits[:, 1, 2]),
    ),
    "SigLIP 2": lambda: Family(
        tf.Siglip2VisionModel(tf.Siglip2VisionConfig(**TINY, patch_size=8, num_patches=4)),
        {
            "pixel_values": torch.randn(2, 4, 192, generator=torch.Generator().manual_seed(1)),
            "pixel_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
            "spatial_shapes": torch.tensor([[2, 2], [2, 1]]),
        },
        of("pooled", lambda out: out.pooler_output[:, 1]),
    ),
    "Chinese-CLIP": lambda: pair(tf.ChineseCLIPModel(towers(tf.ChineseCLIPConfig)), similarity()),
    "AltCLIP": lambda: pair(tf.AltCLIPModel(towers(tf.AltCLIPConfig)), similarity()),
    "CLIP classifier": lambda: Family(
        tf.CLIPForImageClassification(tf.CLIPConfig(vision_config=VISION, num_labels=4)),
        {"pixel_values": pixels()},
        given(torch.tensor([1, 2])),
    ),
    "CLIP's image tower": lambda: Family(
        tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**VISION, projection_dim=8)),
        {"pixel_values": pixels()},
        of("embedding", lambda out: out.image_embeds[:, 1]),
    ),
    "SigLIP": lambda: Family(
        tf.SiglipModel(towers(tf.SiglipConfig)),
        {"input_ids": words()["input_ids"], "pixel_values": pixels()},
        similarity(),
    ),
    "SigLIP classifier": lambda: Family(
        tf.SiglipForImageClassification(tf.SiglipConfig(vision_config=VISION, num_labels=4)),
        {"pixel_values": pixels()},
        given(torch.tensor([1, 2])),
    ),
    "FLAVA": lambda: pair(
        tf.FlavaModel(
            tf.FlavaConfig(
                text_config={**TEXT, "max_position_embeddings": 16},
                image_config=VISION,
                multimodal_config=TINY,
                projection_dim=8,
            )
        ),
        of("class token", lambda out: out.multimodal_embeddings[:, 0, 1]),
    ),
    "ViLT": lambda: pair(
        tf.ViltForQuestionAnswering(tf.ViltConfig(**{**TEXT, **IMAGE}, num_labels=4)), given(torch.tensor([1, 2]))
    ),
    "BLIP retrieval": lambda: pair(
        tf.BlipForImageTextRetrieval(
            tf.BlipConfig(text_config=BLIP_TEXT, vision_config=VISION, image_text_hidden_size=8)
        ),
        of("match", lambda out: out.itm_score[:, 1]),
    ),
    "BLIP captions": lambda: pair(
        tf.BlipForConditionalGeneration(tf.BlipConfig(text_config=BLIP_TEXT, vision_config=VISION)), NEXT
    ),
    "BLIP questions": lambda: answered(
        tf.BlipForQuestionAnswering(tf.BlipConfig(text_config=BLIP_TEXT, vision_config=VISION))
    ),
    "GIT": lambda: pair(
        tf.GitForCausalLM(tf.GitConfig(vision_config=VISION, **TEXT)), of("next word", lambda out: out.logits[:, -4, 5])
    ),
    "OWL-ViT": lambda: objects(tf.OwlViTForObjectDetection),
    "OWLv2": lambda: objects(tf.Owlv2ForObjectDetection),
    "AST": lambda: Family(
        tf.ASTForAudioClassification(
            tf.ASTConfig(**TINY, **AUDIO, patch_size=4, frequency_stride=4, time_stride=4, num_labels=4)
        ),
        {"input_values": torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))},
        given(torch.tensor([1, 2])),
    ),
    "MobileBERT": lambda: text(
        tf.MobileBertForSequenceClassification, embedding_size=16, intra_bottleneck_size=16, use_bottleneck=False
    ),
    "mBART": lambda: decoded(
        tf.MBartForConditionalGeneration(
            tf.MBartConfig(vocab_size=40, d_model=16, **BART, encoder_ffn_dim=24, decoder_ffn_dim=24, pad_token_id=0)
        )
    ),
    "T5": lambda: decoded(
        tf.T5ForConditionalGeneration(
            tf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
        )
    ),
    "BART": lambda: decoded(
        tf.BartForConditionalGeneration(
            tf.BartConfig(vocab_size=40, d_model=16, **BART, encoder_ffn_dim=24, decoder_ffn_dim=24, pad_token_id=0)
        )
    ),
    "Whisper": lambda: Family(
        tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(
                vocab_size=40,
                d_model=16,
                **BART,
                encoder_ffn_dim=24,
                decoder_ffn_dim=24,
                num_mel_bins=8,
                max_source_positions=10,
                **{name: TEXT[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
                decoder_start_token_id=1,
            )
        ),
        {
            "input_features": torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(1)),
            "decoder_input_ids": words()["input_ids"],
        },
        NEXT,
    ),
    **TOWERS,
    **WINDOWS,
    **SAMPLED,
    "ViTDet": lambda: Family(
        tf.VitDetModel(tf.VitDetConfig(**VITDET)),
        {"pixel_values": torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))},
        of("mean feature", lambda out: out.last_hidden_state[:, 1].mean(dim=(1, 2))),
    ),
    "SAM": lambda: Family(
        tf.SamVisionModel(tf.SamVisionConfig(**SAM, output_channels=8)),
        {"pixel_values": torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))},
        of("mean feature", lambda out: out.last_hidden_state[:, 1].mean(dim=(1, 2))),
    ),
    **SEEING,
}


def built(name: str) -> Family:
    return prepared(STOCK[name])
