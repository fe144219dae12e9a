"""Generative models of stock classes with tiny weights, each saved with its own processor and loaded from the folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import torch
import transformers as tf
from PIL import Image
from tokenizers import pre_tokenizers
from torch import nn

from ..adapters.stock import BLIP_TEXT, LANGUAGE, PATCHES, TINY

CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SQUARE = {"height": 16, "width": 16}


@dataclass
class Generative:
    """A model and its processor as they come from a folder, and what they are given."""

    model: Any
    processor: Any
    images: list[Image.Image]
    text: str | None
    answer: str = "ein Hund 🐶"


def picture(seed: int = 0, size: tuple[int, int] = (20, 20)) -> Image.Image:
    shape = (size[1], size[0], 3)
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, shape, generator=generator).byte().numpy())


def byte_level(cls: Any, *special: str, **options: Any) -> Any:
    """One token a byte, and those of some frequent pairs."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("e", "i"), ("Ġ", "H"), ("n", "d")]
    vocabulary = {piece: i for i, piece in enumerate(["<|endoftext|>", *letters, *("".join(pair) for pair in merges)])}
    tokenizer = cls(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", **options)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)} if special else {})
    return tokenizer


def sentence_pieces(cls: Any, *special: str, **options: Any) -> Any:
    """Pieces of some words, and bytes for all else."""
    start, end = ("<bos>", "<eos>") if cls is tf.GemmaTokenizer else ("<s>", "</s>")
    pieces = ["<pad>", end, start, "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "H"), ("▁", "e"), ("n", "d"), ("▁e", "i")]
    pieces += ["▁", "H", "e", "n", "d", "i", *("".join(pair) for pair in merges)]
    tokenizer = cls(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, pad_token="<pad>", **options)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)} if special else {})
    return tokenizer


def sized(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The language model of a tokenizer."""
    ends = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {**LANGUAGE, **ends, "vocab_size": len(tokenizer), **more}


def llava() -> Generative:
    tokenizer = sentence_pieces(tf.LlamaTokenizer, "<image>")
    images = tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE)
    options = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = tf.LlavaProcessor(images, tokenizer, chat_template=CHAT.replace("IMAGE", "<image>"), **options)
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**PATCHES),
        text_config=tf.LlamaConfig(**sized(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Generative(tf.LlavaForConditionalGeneration(config), processor, [picture()], "Was?")


def tiled(cls: Any, images: Any, processor: Any, vision: Any, language: Any, tokenizer: Any, **more: Any) -> Generative:
    """The image has two tiles side by side."""
    config = cls.config_class(
        vision_config=vision,
        text_config=language(**sized(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[16, 32], [32, 16]],
        **more,
    )
    return Generative(cls(config), processor(images, tokenizer), [picture(size=(40, 20))], "<image> Was?")


def llava_next() -> Generative:
    tokenizer = sentence_pieces(tf.LlamaTokenizer, "<image>")
    images = tf.LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size=SQUARE, image_grid_pinpoints=[[16, 32], [32, 16]]
    )
    return tiled(
        tf.LlavaNextForConditionalGeneration,
        images,
        lambda *parts: tf.LlavaNextProcessor(
            *parts, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
        ),
        tf.CLIPVisionConfig(**PATCHES),
        tf.LlamaConfig,
        tokenizer,
    )


def paligemma() -> Generative:
    tokenizer = sentence_pieces(tf.GemmaTokenizer, "<image>")
    images = tf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**PATCHES),
        text_config=tf.GemmaConfig(**sized(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=16,
    )
    model = tf.PaliGemmaForConditionalGeneration(config)
    return Generative(model, tf.PaliGemmaProcessor(images, tokenizer), [picture()], "<image>caption de")


def gemma3() -> Generative:
    tokenizer = sentence_pieces(
        tf.GemmaTokenizer,
        extra_special_tokens={"image_token": "<soft>", "boi_token": "<start>", "eoi_token": "<end>"},
    )
    processor = tf.Gemma3Processor(tf.Gemma3ImageProcessor(size=SQUARE), tokenizer, image_seq_length=4)
    config = tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(
            **sized(tokenizer), layer_types=["sliding_attention", "full_attention"], sliding_window=4
        ),
        vision_config=tf.SiglipVisionConfig(**PATCHES),
        image_token_index=tokenizer.convert_tokens_to_ids("<soft>"),
        mm_tokens_per_image=4,
    )
    return Generative(tf.Gemma3ForConditionalGeneration(config), processor, [picture()], "<start> Was?")


def internvl() -> Generative:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_level(tf.Qwen2Tokenizer, extra_special_tokens=names)
    images = tf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=False)
    processor = tf.InternVLProcessor(images, tokenizer, tf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4)
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**{**PATCHES, "image_size": [16, 16], "patch_size": [4, 4]}),
        text_config=tf.Qwen2Config(**sized(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    model = tf.InternVLForConditionalGeneration(config)
    return Generative(model, processor, [picture(), picture(1)], "<IMG_CONTEXT><IMG_CONTEXT> 什么?", "一只狗 🐶.")


def idefics3(smol: bool = False) -> Generative:
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer = byte_level(
        tf.GPT2Tokenizer,
        *special,
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    )
    options = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    processor: Any
    if smol:
        model_class: Any = tf.SmolVLMForConditionalGeneration
        images = tf.SmolVLMImageProcessor(**options)
        processor = tf.SmolVLMProcessor(images, tokenizer, tf.SmolVLMVideoProcessor(**options), image_seq_len=4)
    else:
        model_class = tf.Idefics3ForConditionalGeneration
        processor = tf.Idefics3Processor(tf.Idefics3ImageProcessor(**options), tokenizer, image_seq_len=4)
    config = model_class.config_class(
        vision_config=PATCHES,
        text_config=tf.LlamaConfig(**sized(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return Generative(model_class(config), processor, [picture(size=(32, 16))], "<image> Was?")


def qwen(cls: Any, processor_class: Any, video: Any, **vision: Any) -> Generative:
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_level(tf.Qwen2Tokenizer, *special)
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"size": {"shortest_edge": 64, "longest_edge": 256}}
    images = tf.Qwen2VLImageProcessor(**sizes, **limits)
    processor = processor_class(images, tokenizer, video(**sizes, **limits))
    tower = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision}
    language = {k: v for k, v in sized(tokenizer).items() if k != "head_dim"}
    ids = dict(
        zip(("vision_start", "vision_end", "image", "video"), tokenizer.convert_tokens_to_ids(special), strict=True)
    )
    config = cls.config_class(
        vision_config=tower,
        text_config={**language, "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        **{f"{name}_token_id": number for name, number in ids.items()},
    )
    text = "<|vision_start|><|image_pad|><|vision_end|> Was?"
    return Generative(cls(config), processor, [picture(size=(16, 16))], text, "一只狗 🐶.")


def blip2() -> Generative:
    tokenizer = byte_level(tf.GPT2Tokenizer, "<image>")
    processor = tf.Blip2Processor(tf.BlipImageProcessor(size=SQUARE), tokenizer, num_query_tokens=4)
    opt = {
        k: v for k, v in sized(tokenizer).items() if k not in ("intermediate_size", "head_dim", "num_key_value_heads")
    }
    config = tf.Blip2Config(
        vision_config=PATCHES,
        qformer_config={"vocab_size": 40, "encoder_hidden_size": 16, "cross_attention_frequency": 1, **TINY},
        text_config=tf.OPTConfig(**opt, ffn_dim=24, word_embed_proj_dim=16),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_text_hidden_size=8,
    )
    return Generative(tf.Blip2ForConditionalGeneration(config), processor, [picture()], "Was?")


def blip(text: str | None = None) -> Generative:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "dog", "##gy", "picture", "of", "."]
    tokenizer = tf.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    processor = tf.BlipProcessor(tf.BlipImageProcessor(size=SQUARE), tokenizer)
    ids = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3}
    config = tf.BlipConfig(text_config={**BLIP_TEXT, **ids, "vocab_size": len(pieces)}, vision_config=PATCHES)
    return Generative(tf.BlipForConditionalGeneration(config), processor, [picture()], text, "a doggy.")


def gpt2() -> Generative:
    tokenizer = byte_level(tf.GPT2Tokenizer)
    config = tf.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return Generative(tf.GPT2LMHeadModel(config), tokenizer, [], "Das ist", " ein Hund 🐶")


def llama() -> Generative:
    tokenizer = sentence_pieces(tf.LlamaTokenizer)
    tokenizer.chat_template = CHAT
    return Generative(tf.LlamaForCausalLM(tf.LlamaConfig(**sized(tokenizer))), tokenizer, [], "Was?")


def t5() -> Generative:
    pieces = ["<pad>", "</s>", "<unk>", "▁ein", "▁H", "u", "n", "d", "▁", "W", "a", "s", "?"]
    tokenizer = tf.T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = tf.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return Generative(tf.T5ForConditionalGeneration(config), tokenizer, [], "Was?", "ein Hund")


QWEN_TOWER = {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24}
MODELS: dict[str, Callable[[], Generative]] = {
    "LLaVA": llava,
    "LLaVA-NeXT": llava_next,
    "PaliGemma": paligemma,
    "Gemma 3": gemma3,
    "InternVL": internvl,
    "Idefics3": idefics3,
    "SmolVLM": lambda: idefics3(smol=True),
    "Qwen2-VL": lambda: qwen(
        tf.Qwen2VLForConditionalGeneration,
        tf.Qwen2VLProcessor,
        tf.Qwen2VLVideoProcessor,
        embed_dim=16,
        hidden_size=16,
        mlp_ratio=2,
    ),
    "Qwen2.5-VL": lambda: qwen(
        tf.Qwen2_5_VLForConditionalGeneration,
        tf.Qwen2_5_VLProcessor,
        tf.Qwen2VLVideoProcessor,
        **QWEN_TOWER,
        window_size=16,
        fullatt_block_indexes=[1],
    ),
    "Qwen3-VL": lambda: qwen(
        tf.Qwen3VLForConditionalGeneration,
        tf.Qwen3VLProcessor,
        tf.Qwen3VLVideoProcessor,
        **QWEN_TOWER,
        num_position_embeddings=16,
        deepstack_visual_indexes=[],
    ),
    "BLIP-2": blip2,
    "BLIP": blip,
    "BLIP, a prompt": lambda: blip("a picture of"),
    "GPT-2": gpt2,
    "Llama": llama,
    "T5": t5,
}


@cache
def loaded(name: str) -> Generative:
    """Saves a model with its processor and loads both, in double precision, with weights that leave no softmax flat."""
    with patch(
        "transformers.models.smolvlm.processing_smolvlm.num2words", str
    ):  # a package that says numbers, of videos
        return _loaded(MODELS[name])


def _loaded(make: Callable[[], Generative]) -> Generative:
    torch.manual_seed(0)
    made = make()
    for parameter in made.model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    folder = Path(mkdtemp(prefix="generative-"))
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    auto = tf.AutoTokenizer if made.processor.__class__.__name__.endswith("Tokenizer") else tf.AutoProcessor
    made.processor = auto.from_pretrained(folder)
    made.model = type(made.model).from_pretrained(folder, dtype=torch.float64).eval()
    return made
