"""Generative models of transformers' own classes over CLIP's image tower: trained here, loaded by anybody without this package.

All texts about an image are one pass: each sees the image, what stands before every text, and itself. The image's tokens, most
of all there are, are computed once for its questions and captions.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from jaxtyping import Bool, Float, Int
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from clipmapper.config import ModelConfig
from clipmapper.models.clip import FrozenCLIP

START, END, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
DESCRIBE = "Describe the image."
MOST_TOKENS = 4096  # of a vocabulary
LAYERS = 4
LONGEST = 64  # tokens of what is written
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

Question = str | None  # None asks for a caption


class StockModel(nn.Module):
    """A model of transformers with its processor, and how texts and images become its tokens.

    Attributes:
        model: what is trained, and saved by `save_pretrained`.
        opening: ids that stand before every text, those of the image's places included.
        frozen: whether the image tower is, so that its tokens can be computed once.
        fingerprint: of the CLIP it is built on.
    """

    model: Any
    frozen: bool

    def __init__(self, config: ModelConfig, vocabulary: str) -> None:
        """`vocabulary`: a tokenizer as JSON, as `vocabulary_of` makes it. Raises ValueError for a CLIP without such a tower."""
        super().__init__()
        clip = FrozenCLIP(config.clip, config.pretrained)
        self.config, self.vocabulary, self.fingerprint = config, vocabulary, clip.fingerprint
        self.width, self.layers = config.width or clip.embed_width, config.layers or LAYERS
        if self.width % config.heads:
            raise ValueError(f"model.heads is {config.heads} and must divide the language model's width, {self.width}")
        self.tokenizer = tf.PreTrainedTokenizerFast(
            tokenizer_object=self.wrapped(Tokenizer.from_str(vocabulary)),
            bos_token=START,
            eos_token=END,
            pad_token=PAD,
            additional_special_tokens=[IMAGE],
        )
        self.ends = {
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        self.image_options = image_options(clip)
        self.build(clip)
        self.preprocess = partial(pixels_of, self.processor.image_processor)
        self.model.generation_config.update(**self.ends, max_new_tokens=LONGEST, do_sample=False)

    processor: Any

    def wrapped(self, tokenizer: Tokenizer) -> Tokenizer:
        """Puts the start token before a text."""
        start = (START, tokenizer.token_to_id(START))
        tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A", special_tokens=[start])
        return tokenizer

    def build(self, clip: FrozenCLIP) -> None:
        """Makes model, processor and opening."""
        raise NotImplementedError

    @classmethod
    def spoken(cls, question: Question, text: str) -> str:
        """A question with its answer, or a caption, as the vocabulary is made from."""
        return f"{question or ''} {text}"

    def prompt(self, question: Question) -> str:
        """What follows on the opening, up to the answer or caption."""
        raise NotImplementedError

    def reply(self, question: Question, text: str) -> str:
        """The answer or caption, with the blank before it."""
        raise NotImplementedError

    def image_tokens(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B I D"]:
        """What the language model reads of images."""
        raise NotImplementedError

    def states(
        self,
        image: Float[Tensor, "B I D"],
        ids: Int[Tensor, "B L"],
        place: Int[Tensor, "B L"],
        mask: Float[Tensor, "B 1 L L"],
    ) -> Float[Tensor, "B L W"]:
        """The last states of opening and texts; `place` counts positions, and the mask is added to scores of attention."""
        raise NotImplementedError

    def logits(self, states: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """Logits of the token after each state."""
        raise NotImplementedError

    def continued(self, image: Float[Tensor, "B I D"], ids: Int[Tensor, "B L"]) -> Int[Tensor, "B T"]:
        """Tokens that the model writes after prompts of one length, greedily."""
        raise NotImplementedError

    @torch.no_grad()
    def write(self, image: Float[Tensor, "B I D"], of: Sequence[int], questions: Sequence[Question]) -> list[str]:
        """Answers and captions, greedily; `of` says which image each question is about.

        Prompts of one length are written together: then none is padded, and this is what `generate` says of each alone.
        """
        prompts = [self.opening + ids for ids in self.encoded([self.prompt(question) for question in questions])]
        texts = [""] * len(prompts)
        for length in sorted({len(ids) for ids in prompts}):
            rows = [row for row, ids in enumerate(prompts) if len(ids) == length]
            ids = torch.tensor([prompts[row] for row in rows], device=image.device)
            tokens = self.continued(image[[of[row] for row in rows]], ids)
            for row, text in zip(rows, self.tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                texts[row] = text.strip()
        return texts

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts as they are, without start and end."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def identity(self) -> dict[str, str]:
        """Returns what the tokens of an image depend on, for a feature cache."""
        preprocess = json.dumps(
            {**self.image_options, "by": type(self.processor.image_processor).__name__}, sort_keys=True
        )
        return {
            "clip": self.config.clip,
            "weights": self.fingerprint,
            "preprocess": preprocess,
            "tokens": "before the norm",
        }

    def trained_state(self) -> dict[str, Tensor]:
        """All weights but those of a frozen tower, which come from open_clip."""
        fixed = {name for name, part in self.named_modules() if self.frozen and part is self.tower}
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(tuple(f"{n}." for n in fixed))
        }

    @property
    def tower(self) -> Any:
        """The image tower."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """Returns what is needed to build it again, as plain values."""
        return {
            "model": asdict(self.config),
            "answers": [],
            "clip_fingerprint": self.fingerprint,
            "vocabulary": self.vocabulary,
        }

    def save_pretrained(self, folder: Path) -> None:
        """Writes model and processor as transformers loads them."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class Llava(StockModel):
    """A Llama that reads the patches of CLIP's frozen tower, before its last norm, as LLaVA does."""

    frozen = True

    def build(self, clip: FrozenCLIP) -> None:
        visual = clip.model.visual
        vision = tf.CLIPVisionConfig(**tower_options(visual), projection_dim=clip.embed_width)
        language = tf.LlamaConfig(
            **self.ends,
            vocab_size=len(self.tokenizer),
            hidden_size=self.width,
            intermediate_size=-(-8 * self.width // 24) * 8,  # 8/3 of the width, in eights
            num_hidden_layers=self.layers,
            num_attention_heads=self.config.heads,
            max_position_embeddings=1024,
            attention_dropout=self.config.dropout,
        )
        patches = clip.grid[0] * clip.grid[1]
        config = tf.LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=self.tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=patches,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
        self.model = tf.LlavaForConditionalGeneration(config)
        bare = getattr(self.tower, "vision_model", self.tower)
        bare.load_state_dict(as_clip_tower(visual))
        self.tower.requires_grad_(False)
        self.processor = tf.LlavaProcessor(
            tf.CLIPImageProcessor(**self.image_options),
            self.tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT,
        )
        before = self.tokenizer(self._chat("")[0])["input_ids"]
        self.places = slice(len(before), len(before) + patches)
        self.opening = before + [config.image_token_index] * patches

    @property
    def tower(self) -> Any:
        return self.model.model.vision_tower

    def _chat(self, question: str) -> tuple[str, str]:
        """What stands before and after the image."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        before, _, after = text.partition(IMAGE)
        return before, after

    @classmethod
    def spoken(cls, question: Question, text: str) -> str:
        return f"USER: \n{question or DESCRIBE} ASSISTANT: {text}"

    def prompt(self, question: Question) -> str:
        return self._chat(question or DESCRIBE)[1]

    def reply(self, question: Question, text: str) -> str:
        return f" {text}"

    @torch.no_grad()
    def image_tokens(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B I D"]:
        return self.tower(pixels).last_hidden_state

    def _embedded(self, image: Tensor, ids: Tensor) -> Tensor:
        inner = self.model.model
        words = inner.language_model.embed_tokens(ids)
        patches = inner.multi_modal_projector(image[:, 1:].to(words.dtype))
        return torch.cat([words[:, : self.places.start], patches, words[:, self.places.stop :]], dim=1)

    def states(self, image: Tensor, ids: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        inputs = {"inputs_embeds": self._embedded(image, ids), "attention_mask": mask, "position_ids": place}
        return self.model.model.language_model(**inputs, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        return self.model.lm_head(states)

    def continued(self, image: Tensor, ids: Tensor) -> Tensor:
        return self.model.generate(inputs_embeds=self._embedded(image, ids), attention_mask=torch.ones_like(ids))


class Blip(StockModel):
    """A decoder that attends to an image tower of BLIP, which starts as CLIP's and is trained along.

    BLIP's tower has no norm before its first layer. At the start that norm is taken for the linear map that it is of a token
    of average length.
    """

    frozen = False

    def wrapped(self, tokenizer: Tokenizer) -> Tokenizer:
        """Puts start and end token around a text: BLIP's `generate` goes on from it without its last."""
        ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
        tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
        return tokenizer

    def build(self, clip: FrozenCLIP) -> None:
        visual = clip.model.visual
        language = tf.BlipTextConfig(
            **self.ends,
            sep_token_id=self.tokenizer.eos_token_id,
            vocab_size=len(self.tokenizer),
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.config.heads,
            max_position_embeddings=256,
            hidden_dropout_prob=self.config.dropout,
            attention_probs_dropout_prob=self.config.dropout,
        )
        vision = tf.BlipVisionConfig(**tower_options(visual), projection_dim=clip.embed_width)
        self.model = tf.BlipForConditionalGeneration(tf.BlipConfig(text_config=language, vision_config=vision))
        self.tower.load_state_dict(as_blip_tower(visual))
        self.processor = tf.BlipProcessor(
            tf.BlipImageProcessor(**blip_image_options(self.image_options)), self.tokenizer
        )
        self.opening = [self.tokenizer.bos_token_id]

    @property
    def tower(self) -> Any:
        return self.model.vision_model

    def prompt(self, question: Question) -> str:
        return question or ""

    def reply(self, question: Question, text: str) -> str:
        return f" {text}" if question else text

    def image_tokens(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B I D"]:
        return self.tower(pixels).last_hidden_state

    def states(self, image: Tensor, ids: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": place, "encoder_hidden_states": image}
        return self.model.text_decoder.bert(**inputs, is_decoder=True, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        return self.model.text_decoder.cls(states)

    def continued(self, image: Tensor, ids: Tensor) -> Tensor:
        options = {"attention_mask": torch.ones_like(ids), "encoder_hidden_states": image}
        config = self.model.generation_config
        return self.model.text_decoder.generate(ids, generation_config=config, **options)[:, ids.shape[1] :]


STOCK: dict[str, type[StockModel]] = {"llava": Llava, "blip": Blip}


def vocabulary_of(texts: Iterable[str]) -> str:
    """A byte-level BPE tokenizer made from texts, as JSON: any text can be written in it, and most words of those are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS, special_tokens=[PAD, START, END, IMAGE], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def pixels_of(processor: Any, image: Image.Image) -> Float[Tensor, "3 H W"]:
    """An image as a processor gives it."""
    return processor(image, return_tensors="pt")["pixel_values"][0]


def image_options(clip: FrozenCLIP) -> dict[str, Any]:
    """CLIP's preprocessing as options of transformers' CLIPImageProcessor."""
    has, (height, width) = clip.preprocess_config, clip.model.visual.image_size
    if height != width or (has["interpolation"], has["resize_mode"]) != ("bicubic", "shortest"):
        raise ValueError(
            f"CLIP model {clip.name} reads images otherwise than CLIP's own; choose one of 'ViT-B-32', ..."
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
        raise ValueError("the image tower of this CLIP is not built as CLIP's own, so transformers has no class for it")
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


def attention_mask(part: Int[Tensor, "B L"]) -> Float[Tensor, "B 1 L L"]:
    """What is added to scores of attention: each text sees the opening (part 0), and of itself what came before."""
    return torch.zeros(seen(part).shape, device=part.device).masked_fill(~seen(part), torch.finfo(torch.float32).min)[
        :, None
    ]


def seen(part: Int[Tensor, "B L"]) -> Bool[Tensor, "B L L"]:
    """Whether a token (row) sees another (column)."""
    place = torch.arange(part.shape[1], device=part.device)
    own = (part[:, None, :] == part[:, :, None]) | (part[:, None, :] == 0)
    return own & (place <= place[:, None])
