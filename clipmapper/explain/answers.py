"""Explains a mapper's output all the way: through CLIP's own layers, then the mapper's, to the head.

Explanations start from pixels: the feature cache holds what CLIP's image tower ends with, where its attentions are gone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipmapper.errors import unknown
from clipmapper.explain.removal import without
from clipmapper.images import ImageSource, load_image
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import UNKNOWN, CLIPMapper
from xai import Adapter, Layout, Relevance, Site, Target, explain_recording, given, record
from xai.adapters.clip import open_clip
from xai.adapters.common import before_grid, text_ends
from xai.explainers.registry import as_method
from xai.explanation import RECOMMENDED
from xai.figures.geometry import Geometry, Size, longest, shortest, squash
from xai.recording.adapter import Stream, at
from xai.recording.head import Head, as_logits
from xai.recording.reads import Needs
from xai.recording.recording import Recording

IMAGE: Stream = ("image",)
TEXT: Stream = ("text",)
JOINT: Stream = ("image", "text")
CLIP = "model.clip.model."  # where open_clip's model is in FromPixels


class FromPixels(nn.Module):
    """A CLIPMapper and the CLIP it reads as one module with one forward pass, which `mapper_adapter` describes."""

    def __init__(self, model: CLIPMapper) -> None:
        super().__init__()
        self.model = model

    @property
    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        """The submodules that are trained, and CLIP."""
        trained = ("image_projection", "text_projection", "mapper", "head")
        return {"mapper": tuple(f"model.{name}" for name in trained), "clip": ("model.clip",)}

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], BPE ids and mask [B, T] to answer logits [B, answers].

        Of a model that writes captions: to the logits [B, T, V] of what comes after each token.
        """
        image, text = self.model.states(self.model.clip.image_tokens(pixels), ids, mask)
        if self.model.config.task == "vqa":
            return self.model.answer_logits(image, text, mask)
        return self.model.head(text)


@torch.no_grad()
def explain_answer(
    model: CLIPMapper,
    image: ImageSource | Sequence[ImageSource],
    question: str | Sequence[str],
    method: str = RECOMMENDED,
    answer: str | Sequence[str] | None = None,
    **options: Any,
) -> Relevance:
    """Relevance of patches and words for an answer, by default the model's own, by one of `xai.METHODS`.

    A batch is as many images as questions; `answer` is then one for all, or one for each. Raises BadImage, and ValueError
    for an answer or a method that is not known. To draw it: `relevance.save_overlay(path, images, geometry=preprocessing(
    model.clip))`.
    """
    sources, questions = ([image], [question]) if isinstance(question, str) else (image, question)
    pixels = torch.stack([model.clip.pixels(load_image(source)) for source in cast(Sequence[ImageSource], sources)])
    ids, mask = model.clip.tokenize(questions)
    recording = record_answer(model, pixels, ids, mask, as_method(method).needs(options))
    relevance = explain_recording(recording, method, answer_target(model, recording, answer), **options)
    return relevance.with_words(words(model.clip, ids, mask))


def record_answer(
    model: CLIPMapper, pixels: Tensor, ids: Tensor, mask: Tensor, lrp: Needs = None, whole: FromPixels | None = None
) -> Recording:
    """One recorded pass over preprocessed pixels [B, 3, H, W] and questions [B, T], which all methods can share.

    LRP methods need `lrp="tokens"`, which is as of `record`; the others take such a recording too. `whole` is FromPixels(model),
    if the caller has one.
    """
    if len(pixels) != len(ids):
        raise ValueError(
            f"{len(pixels)} images and {len(ids)} questions are no pairs; give one image for each question"
        )
    if model.config.task != "vqa":
        raise ValueError("the model writes captions: explain them with clipmapper.explain.explain_caption")
    recording = record_pass(model, pixels, ids, mask, lrp, whole)
    weight = model.clip.model.visual.conv1.weight
    inputs = pixels.to(weight), ids.to(weight.device), mask.to(weight.device)
    return replace(recording, without=partial(without, model, *inputs))


def record_pass(
    model: CLIPMapper, pixels: Tensor, ids: Tensor, mask: Tensor, lrp: Needs = None, whole: FromPixels | None = None
) -> Recording:
    """Records answers or captions as `record_answer` does: the recording of FromPixels(model)."""
    weight = model.clip.model.visual.conv1.weight
    whole = whole or FromPixels(model)
    with record(whole, mapper_adapter(model), lrp) as recorder:
        whole(pixels.to(weight), ids.to(weight.device), mask.to(weight.device))
    return recorder.recording


def answer_target(model: CLIPMapper, recording: Recording, answer: str | Sequence[str] | None = None) -> Target:
    """The logit of an answer, one for all samples or one for each; without it, of what the model answers."""
    if answer is None:
        labels = recording.output.argmax(dim=1)
    else:
        labels = torch.tensor([_label(model, name) for name in ([answer] if isinstance(answer, str) else answer)])
        if len(labels) not in (1, len(recording.output)):
            raise ValueError(f"{len(labels)} answers for {len(recording.output)} questions; give one, or one for each")
    rows = labels.expand(len(recording.output))

    def probability(outputs: Tensor) -> Tensor:  # a sigmoid, as the head was trained
        return outputs.gather(1, rows.to(outputs.device)[:, None])[:, 0].sigmoid()

    return replace(given(labels), name=", ".join(model.answers[label] for label in labels), probability=probability)


def words(clip: FrozenCLIP, ids: Tensor, mask: Tensor) -> list[list[str]]:
    """Returns what each BPE id [B, T] stands for; a space follows the last token of a word. Padding is ""."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return [[clip.tokenizer.decode([i]) if mask else "" for i, mask in zip(*row, strict=True)] for row in rows]


def preprocessing(clip: FrozenCLIP) -> Callable[[Size], Geometry]:
    """Returns the function from an image's height and width to where its pixels go in CLIP's preprocessing."""
    way = {"shortest": shortest, "longest": longest, "squash": squash}[clip.preprocess_config["resize_mode"]]
    return lambda original: way(original, clip.preprocess_config["size"])


def mapper_adapter(model: CLIPMapper) -> Adapter:
    """The adapter of `FromPixels(model)`. Raises ValueError for a model that is blind to a modality."""
    if model.config.sees != "both":
        raise ValueError(
            f"the model sees {model.config.sees} only (model.sees), so there is no image and text to explain"
        )
    clip = tuple(tuple(_within_clip(site) for site in layer) for layer in open_clip(model.clip.model).layers)
    context = TEXT if model.config.task == "vqa" else IMAGE  # what the image may read: no word that comes later
    layers = _single_stream if model.config.mapper == "a" else partial(_dual_stream, context)
    mapper = tuple(layer for i, _ in enumerate(model.mapper.blocks) for layer in layers(f"model.mapper.blocks.{i}"))
    return Adapter(clip + mapper, partial(_layout, model), heads=partial(_heads, model))


def _label(model: CLIPMapper, name: str) -> int:
    if name not in model.answers:
        raise unknown("answer", name, model.answers)
    return model.answers.index(name)


def _within_clip(site: Site) -> Site:
    return replace(site, module=CLIP + site.module, residual=CLIP + site.residual, output=CLIP + site.output)


def _single_stream(block: str) -> list[tuple[Site, ...]]:
    return [(_site(block, "attention", "norm", JOINT, JOINT),)]


def _dual_stream(context: Stream, block: str) -> list[tuple[Site, ...]]:
    """Both branches attend to themselves at once, then the text to the image and the image to `context` at once."""
    image, text = f"{block}.image", f"{block}.text"
    return [
        (_site(image, "attention", "norm", IMAGE, IMAGE), _site(text, "attention", "norm", TEXT, TEXT)),
        (
            _site(image, "cross_attention", "cross_norm", IMAGE, context),
            _site(text, "cross_attention", "cross_norm", TEXT, IMAGE),
        ),
    ]


def _site(block: str, attention: str, norm: str, queries: Stream, keys: Stream) -> Site:
    """The norm takes what the skip connection carries; the attention ends with its output projection."""
    return Site(f"{block}.{attention}", queries, keys, f"{block}.{norm}", f"{block}.{attention}")


def _heads(model: CLIPMapper, inputs: Mapping[str, Any]) -> tuple[Head, ...]:
    """The mapper's head, which reads the states of the mapper's layers and none of CLIP's, whose space is another one."""
    caption, last = model.config.task == "caption", cast(Any, model.mapper.blocks[-1])
    own: tuple[str, ...] = ("attention",)  # those that add to the stream which is read
    if model.config.mapper == "b":
        branch = "text" if caption else model.config.read
        own, last = (f"{branch}.attention", f"{branch}.cross_attention"), getattr(last, branch)
    attentions = frozenset(f"model.mapper.blocks.{i}.{name}" for i, _ in enumerate(model.mapper.blocks) for name in own)

    def forward(states: Tensor) -> Tensor:
        return states + last.feed_forward(last.forward_norm(states))

    head = cast(Any, model.head)
    if not caption:
        norm, *rest = head
        return (Head(model, attentions, norm, nn.Sequential(*rest), as_logits, pooled=True, forward=forward),)
    words = model.numbers[inputs["ids"]]
    image = words.new_full((len(words), 1 + prod(model.clip.grid) if model.config.mapper == "a" else 0), UNKNOWN)
    tokens = torch.cat([image, words], dim=1)
    return (Head(model, attentions, head.norm, head.logits, _text_alone, forward=forward, tokens=tokens),)


def _text_alone(read: Tensor, output: Tensor) -> Tensor:
    """Logits of the text, which is last in the stream."""
    return read[:, -output.shape[1] :]


def _layout(model: CLIPMapper, inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
    grid, mask = model.clip.grid, inputs["mask"]
    lengths = {"image": sizes[IMAGE], "text": sizes[TEXT]}
    positions = {"image": 0, "text": mask.sum(dim=1) - 1}
    special = {"image": before_grid(lengths["image"], grid), "text": text_ends(None, mask)}
    read = model.config.read
    if model.config.task == "caption":  # read at the last word, which no end token follows
        special["text"], read = at(0, lengths["text"]).bool(), "text"
    return Layout(lengths, {read: at(positions[read], lengths[read])}, {"text": mask}, special, {"image": grid})
