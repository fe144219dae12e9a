"""Tiny stock models of families that have no table."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers as tf
from torch import Tensor, nn

from xai import Target, given, similarity

from ..conftest import IMAGE, TINY, Family, pixels, prepared, shorter, words

TEXT: dict[str, Any] = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **TINY}
VISION: dict[str, Any] = {**TINY, **IMAGE}
NEXT = Target("next word", lambda outputs: outputs.logits[:, 3, 5])


def text(cls: Any, target: Target | None = None, sizes: dict[str, Any] = TEXT, **options: Any) -> Family:
    labels = {"num_labels": 3} if target is None else {}
    model = cls(cls.config_class(**sizes, **labels, **options))
    return Family(model, words(), target or given(torch.tensor([1, 2])), shorter)


def image(cls: Any, **options: Any) -> Family:
    return Family(cls(cls.config_class(**VISION, **options)), {"pixel_values": pixels()}, given(torch.tensor([1, 2])))


def timm_model(cls: Any, **options: Any) -> Family:
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    return Family(cls(**size, **options), {"x": pixels()}, given(torch.tensor([1, 2])))


def pair(model: nn.Module, target: Target) -> Family:
    return Family(model, {**words(), "pixel_values": pixels()}, target)


def of(name: str, part: Callable[[Any], Tensor]) -> Target:
    return Target(name, part)


def decoded(model: nn.Module) -> Family:
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(5))  # as long as the encoder's text
    return Family(model, {**words(), "decoder_input_ids": ids}, NEXT)


def towers(config: Any) -> Any:
    return config(text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION)


BLIP_TEXT = {**TEXT, "encoder_hidden_size": 16, "sep_token_id": 3}
BART = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
GPT_2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
OPT = {**{k: v for k, v in TEXT.items() if k != "intermediate_size"}, "ffn_dim": 24, "word_embed_proj_dim": 16}
ROTARY = {"num_key_value_heads": 1}
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
    "StableLM": lambda: text(tf.StableLmForCausalLM, NEXT, num_key_value_heads=2),
    "OLMo 2": lambda: text(tf.Olmo2ForCausalLM, NEXT, **ROTARY),
    "GPT-J": lambda: text(tf.GPTJForCausalLM, NEXT, GPT_2, rotary_dim=4),
    "Falcon": lambda: text(tf.FalconForCausalLM, NEXT, {k: v for k, v in TEXT.items() if k != "intermediate_size"}),
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
    "timm EVA-02": lambda: timm_model(timm.models.eva.Eva, use_rot_pos_emb=True, swiglu_mlp=True),
    "timm BEiT": lambda: timm_model(timm.models.beit.Beit, use_rel_pos_bias=True),
    "timm SigLIP": lambda: timm_model(
        timm.models.vision_transformer.VisionTransformer, global_pool="map", class_token=False
    ),
}


def built(name: str) -> Family:
    return prepared(STOCK[name])
