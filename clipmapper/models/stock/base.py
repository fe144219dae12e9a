"""Generative models of transformers' own classes over CLIP's image tower: trained here, loaded by anybody without this package.

All texts about an image are one pass: each sees the image, what stands before every text, and itself. The image's tokens, most
of all there are, are computed once for its questions and captions.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from clipmapper.config import ModelConfig
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.stock.towers import image_options, pixels_of

START, END, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
DESCRIBE = "Describe the image."
MOST_TOKENS = 4096  # of a vocabulary
LAYERS = 4
LONGEST = 64  # tokens of what is written

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
    processor: Any
    opening: list[int]
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


def vocabulary_of(texts: Iterable[str]) -> str:
    """A byte-level BPE tokenizer made from texts, as JSON: it can write any text, and most words of those are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS, special_tokens=[PAD, START, END, IMAGE], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def attention_mask(part: Int[Tensor, "B L"]) -> Float[Tensor, "B 1 L L"]:
    """What is added to scores of attention: each text sees the opening (part 0), and of itself what came before."""
    unseen = ~seen(part)[:, None]
    return torch.zeros(unseen.shape, device=part.device).masked_fill(unseen, torch.finfo(torch.float32).min)


def seen(part: Int[Tensor, "B L"]) -> Bool[Tensor, "B L L"]:
    """Whether a token (row) sees another (column)."""
    place = torch.arange(part.shape[1], device=part.device)
    own = (part[:, None, :] == part[:, :, None]) | (part[:, None, :] == 0)
    return own & (place <= place[:, None])
