"""Explains a mapper's caption word by word and as a whole: every token is an answer, given at its step (WRA §3.3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from clipmapper.config import DecodingConfig
from clipmapper.explain.answers import FromPixels, record_pass, words
from clipmapper.explain.weights import Weights, caption_weights
from clipmapper.images import ImageSource, load_image
from clipmapper.models.clip_mapper import UNKNOWN, CLIPMapper, evaluating
from clipmapper.models.decoding import write
from xai import Relevance, Target, explain_recording
from xai.explainers.registry import as_method
from xai.explanation import RECOMMENDED
from xai.generation.steps import Steps, of_words, require_order
from xai.recording.reads import Needs, as_reads
from xai.recording.recording import Recording
from xai.results.captions import CaptionRelevance, average

Tokens = Sequence[Sequence[int]]  # of each caption, numbered as the head's logits, without start and end


@dataclass(frozen=True, eq=False)
class Written:
    """Captions as they were written, token by token; row r of their relevance is of caption `steps.of[r]`."""

    tokens: Tokens
    ids: Tensor  # [B, T]: the start token and the tokens that are read, of each caption all but its last
    mask: Tensor  # [B, T]
    steps: Steps

    @property
    def target(self) -> Target:
        """The logit of each step's own token."""
        return self.steps.target()


@torch.no_grad()
def explain_caption(
    model: CLIPMapper,
    image: ImageSource | Sequence[ImageSource],
    caption: str | Sequence[str] | None = None,
    method: str = RECOMMENDED,
    weights: Weights = "average",
    references: Sequence[str] | Sequence[Sequence[str]] | None = None,
    **options: Any,
) -> CaptionRelevance:
    """Relevance of patches and earlier words for every word of a caption, by one of `xai.METHODS`.

    A batch is a list of images, with as many captions if they are given; by default they are the model's own, written
    greedily. `weights` is how the words make up the whole caption: equally, or by how much "bleu4", "cider" or "meteor" drops
    without each; these need `references`, the right captions of the image, or of each image of a batch, and "cider" a batch.
    To draw it: `save_filmstrip(path, images, geometry=preprocessing(model.clip))`, or `save_overlay` for the whole.
    Raises BadImage, and ValueError for a caption or a method that cannot be explained.
    """
    require_captioner(model)
    if isinstance(image, str | bytes) or not isinstance(image, Sequence):
        image, caption = [cast(ImageSource, image)], [caption] if isinstance(caption, str) else caption
        references = None if references is None else [cast(Sequence[str], references)]
    pixels = torch.stack([model.clip.pixels(load_image(source)) for source in cast(Sequence[ImageSource], image)])
    tokens = written(model, pixels) if caption is None else [tokens_of(model, text) for text in caption]
    if len(tokens) != len(pixels):
        raise ValueError(
            f"{len(pixels)} images and {len(tokens)} captions are no pairs; give one image for each caption"
        )
    captions = steps_of(model, tokens)
    counted = caption_weights(model.text_of, tokens, cast(Sequence[Sequence[str]], references), weights)
    recording = record_steps(model, pixels, captions, as_method(method).needs(options))
    return caption_relevance(model, captions, explain_recording(recording, method, captions.target, **options), counted)


@torch.no_grad()
def written(model: CLIPMapper, pixels: Tensor) -> list[list[int]]:
    """The tokens of the model's greedy captions of pixels [B, 3, H, W]."""
    with evaluating(model):
        image = model.clip.image_tokens(pixels.to(model.clip.model.visual.conv1.weight))
        return write(model, image, DecodingConfig()).tokens


def tokens_of(model: CLIPMapper, caption: str) -> list[int]:
    """A caption's tokens. Raises ValueError, naming the word, if the model cannot write it."""
    ids = model.clip.tokenizer.encode(caption)
    tokens = model.numbers[torch.tensor(ids, dtype=torch.long, device=model.numbers.device)].tolist()
    if UNKNOWN in tokens:
        piece = model.clip.tokenizer.decode([ids[tokens.index(UNKNOWN)]]).strip()
        raise ValueError(
            f"caption {caption!r}: {piece!r} is no token that this model writes; it was trained without it"
        )
    return tokens


def steps_of(model: CLIPMapper, tokens: Tokens) -> Written:
    """The steps of captions. Raises ValueError for a caption without words, or longer than CLIP's context."""
    most = model.clip.model.context_length
    for i, caption in enumerate(tokens):
        if not 0 < len(caption) <= most:
            raise ValueError(f"caption {i} has {len(caption)} tokens; from 1 to {most} can be explained")
    counts = torch.tensor([len(caption) for caption in tokens])
    read = torch.full((len(tokens), int(counts.max())), model.start)
    for row, caption in zip(read, tokens, strict=True):
        row[1 : len(caption)] = torch.tensor(caption[:-1])
    device = model.token_ids.device
    labels = torch.tensor([token for caption in tokens for token in caption], device=device)
    at = torch.cat([torch.arange(count) for count in counts.tolist()])
    steps = Steps(torch.arange(len(tokens)).repeat_interleave(counts), at, labels)
    return Written(tokens, model.token_ids[read.to(device)].cpu(), torch.arange(read.shape[1]) < counts[:, None], steps)


def record_steps(
    model: CLIPMapper, pixels: Tensor, captions: Written, lrp: Needs = None, whole: FromPixels | None = None
) -> Recording:
    """One recorded pass over captions of pixels [B, 3, H, W], with a row for each of their steps, as `record_answer`."""
    recording = record_pass(model, pixels, captions.ids, captions.mask, of_words(as_reads(lrp)), whole)
    text = recording.modalities["text"]
    assert isinstance(text, slice)
    require_order(recording, text, 0)
    return captions.steps.rows(recording, text)


def caption_relevance(
    model: CLIPMapper, captions: Written, relevance: Relevance, weights: Sequence[Tensor] | None = None
) -> CaptionRelevance:
    """Relevance of all steps as that of captions, equal `weights` by default."""
    weights = [average(len(caption)) for caption in captions.tokens] if weights is None else weights
    texts = words(model.clip, captions.ids, captions.mask)
    spoken = relevance.with_words([texts[of] for of in captions.steps.of.tolist()])
    return CaptionRelevance(spoken, tuple(map(tuple, pieces_of(model, captions.tokens))), tuple(weights))


def pieces_of(model: CLIPMapper, tokens: Tokens) -> list[list[str]]:
    """Returns of each caption the pieces of words that its tokens stand for."""
    return [[model.clip.tokenizer.decode([int(model.token_ids[t])]) for t in caption] for caption in tokens]


def require_captioner(model: CLIPMapper) -> None:
    """Raises ValueError for a model that answers questions."""
    if model.config.task != "caption":
        raise ValueError("the model answers questions: explain them with clipmapper.explain.explain_answer")
