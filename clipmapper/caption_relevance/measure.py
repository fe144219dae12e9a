"""A model's captions of some images, explained by several methods and measured: a batch of images at a time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipmapper.caption_relevance.perturbation import Judge, predictor
from clipmapper.caption_relevance.truth import named_words, region
from clipmapper.data.captions import Captions
from clipmapper.data.images import BadImage, ImageSource, load_image
from clipmapper.data.shapes.scene import Scene
from clipmapper.explain.captions import Tokens, caption_relevance, record_steps, steps_of, written
from clipmapper.explain.weights import References
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.truth.scores import RANDOM_SEEDS, Explained, score
from xai import Relevance
from xai.explain import explain_each, record_for
from xai.metrics.perturbation import perturb
from xai.metrics.protocols import Protocol
from xai.metrics.ranking import random_relevance
from xai.results.captions import CaptionRelevance, rows_of

Whole = tuple[str, str]  # a method, and the weights of the words in the whole
AVERAGE, RANDOM = "average", "random"
SEEDS = RANDOM_SEEDS[:3]  # of random maps whose patches are removed
ANY_CAPTION = 1000  # more words than a caption has


@dataclass(frozen=True)
class Captioned:
    """Images with the model's greedy captions; `scenes` are there for Shapes."""

    ids: list[int]
    sources: list[ImageSource]
    references: References
    tokens: Tokens
    scenes: Sequence[Scene] | None = None

    def part(self, start: int, count: int) -> "Captioned":
        where = slice(start, start + count)
        scenes = None if self.scenes is None else self.scenes[where]
        return Captioned(self.ids[where], self.sources[where], self.references[where], self.tokens[where], scenes)


class ExplainedPart(NamedTuple):
    """The captions' relevance by method; of those that failed it is NaN, and `errors` says why."""

    relevances: dict[str, CaptionRelevance]
    errors: dict[str, str]

    @property
    def worked(self) -> dict[str, CaptionRelevance]:
        """Those of methods that did not fail."""
        return {name: relevance for name, relevance in self.relevances.items() if name not in self.errors}


@dataclass(frozen=True)
class Measured:
    """Figures of `truth.scores.score` [figure, method, item], the baselines last, and curves of perturbation by figure.

    `words` are columns, one entry a word that names something; without scenes there are none, and no `in_words`, `in_whole`.
    """

    words: dict[str, list[Any]]
    in_words: np.ndarray | None  # [figure, methods and baselines, words]
    in_whole: np.ndarray | None  # [figure, wholes and baselines, images]
    unnamed: int  # words that name what the scene has not
    curves: dict[str, Tensor]  # [wholes and random seeds, directions, images, steps]
    errors: dict[str, str] = field(default_factory=dict)  # of methods that raised, whose figures are NaN


UNKNOWN = Measured({}, None, None, 0, {})  # what is known without scenes


@dataclass(frozen=True)
class Rule:
    """Which whole maps are measured, and how: patches are removed by `protocol`, and `judge` knows all images."""

    wholes: Sequence[Whole]
    protocol: Protocol
    judge: Judge


def caption_images(model: CLIPMapper, split: Captions, count: int, batch_size: int) -> Captioned:
    """Captions images from all over the split; those that cannot be read, or of which the model says nothing, are left out."""
    rows, ids = split.rows[split.one_each(count)].tolist(), split.records["image_id"]
    kept: list[int] = []
    tokens: list[list[int]] = []
    for start in tqdm(range(0, len(rows), batch_size), desc="captioning", unit="batch"):
        images = {}
        for row in rows[start : start + batch_size]:
            with suppress(BadImage):
                images[row] = model.clip.pixels(load_image(split.source(row)))
        if images:
            texts = written(model, torch.stack(list(images.values())))
            kept += [row for row, text in zip(images, texts, strict=True) if text]
            tokens += [text for text in texts if text]
    if not kept:
        raise BadImage(f"none of {len(rows)} images can be read and captioned")
    sources = [split.source(row) for row in kept]
    return Captioned([ids[row] for row in kept], sources, [split.references(row) for row in kept], tokens)


def measure_part(
    model: CLIPMapper,
    part: Captioned,
    found: ExplainedPart,
    weights: Mapping[str, Sequence[Tensor]],
    rule: Rule,
    numbers: Sequence[int],
) -> Measured:
    """Captions that are explained, by method; `weights` by name, of each caption; `numbers`: places in the judge's images."""
    maps = {(method, name): found.relevances[method].whole(weights[name]) for method, name in rule.wholes}
    words = naming(found.relevances, maps, part, model.clip.grid) if part.scenes is not None else UNKNOWN
    return replace(words, curves=removing(model, part, maps, rule, numbers), errors=found.errors)


@torch.no_grad()
def explain_part(model: CLIPMapper, part: Captioned, methods: Sequence[str]) -> ExplainedPart:
    """The captions by every method, from one recorded pass."""
    steps = steps_of(model, part.tokens)
    recording = record_for(methods, partial(record_steps, model, pixels_of(model, part), steps))
    found, errors = explain_each(recording, methods, steps.target)
    return ExplainedPart(
        {name: caption_relevance(model, steps, relevance) for name, relevance in found.items()}, errors
    )


def pixels_of(model: CLIPMapper, part: Captioned) -> Tensor:
    """[B, 3, H, W] as the model takes them."""
    pixels = torch.stack([model.clip.pixels(load_image(source)) for source in part.sources])
    return pixels.to(model.clip.model.visual.conv1.weight)


def naming(
    found: Mapping[str, CaptionRelevance], maps: Mapping[Whole, Relevance], part: Captioned, grid: tuple[int, int]
) -> Measured:
    """Where the maps of words that name something fall, and of whole captions on all that they name."""
    assert part.scenes is not None
    spoken = next(iter(found.values())).words
    named, wrong = named_words(spoken, part.scenes)
    starts = np.cumsum([0, *map(len, spoken)])
    rows = [int(starts[word.caption]) + word.place for word in named]
    ids = [ANY_CAPTION * part.ids[word.caption] + word.place for word in named]
    regions = [region(part.scenes[word.caption], word.things, grid) for word in named]
    by_word = {method: rows_of(relevance.per_word, rows) for method, relevance in found.items()}
    things = [{thing for word in named if word.caption == i for thing in word.things} for i in range(len(part.ids))]
    all_named = [region(scene, sorted(some), grid) for scene, some in zip(part.scenes, things, strict=True)]
    columns: dict[str, list[Any]] = {
        "image_id": [part.ids[word.caption] for word in named],
        "caption": [" ".join(spoken[word.caption]) for word in named],
        "place": [word.place for word in named],
        "word": [word.word for word in named],
        "kind": [word.kind for word in named],
    }
    whole = {f"{method}/{name}": relevance for (method, name), relevance in maps.items()}
    return Measured(columns, scored(by_word, regions, ids), scored(whole, all_named, part.ids), wrong, {})


def scored(relevances: dict[str, Relevance], regions: Sequence[Tensor], ids: Sequence[int]) -> np.ndarray:
    """Mass, rank and silence [figure, method, row] of maps against the share of each patch that is right."""
    patches = next(iter(relevances.values())).content("image").cpu()
    flat = torch.cat([share.flatten() for share in regions]) if len(regions) else torch.zeros(0)
    truth = torch.zeros(patches.shape).masked_scatter(patches, flat)
    return score(Explained({"question_id": list(ids)}, relevances, {"image": truth}))


def removing(
    model: CLIPMapper,
    part: Captioned,
    maps: Mapping[Whole, Relevance],
    rule: Rule,
    numbers: Sequence[int],
) -> dict[str, Tensor]:
    """Curves by figure of all whole maps, then of random ones."""
    ids, patches = torch.tensor(part.ids), next(iter(maps.values())).content("image")
    scores = torch.stack([relevance.scores["image"] for relevance in maps.values()])
    noise = random_relevance(ids, scores.shape[-1], SEEDS).to(scores)
    predict = predictor(model, pixels_of(model, part), part.tokens, rule.judge, numbers)
    return perturb(torch.cat([scores, noise]), patches, ids.to(patches.device), predict, rule.protocol)


def joined(parts: Sequence[Measured]) -> Measured:
    """Of all batches; a method's error is that of its first batch with one."""
    words: defaultdict[str, list[Any]] = defaultdict(list)
    for part in parts:
        for name, column in part.words.items():
            words[name] += column
    in_words = [part.in_words for part in parts if part.in_words is not None]
    in_whole = [part.in_whole for part in parts if part.in_whole is not None]
    return Measured(
        dict(words),
        np.concatenate(in_words, axis=-1) if in_words else None,
        np.concatenate(in_whole, axis=-1) if in_whole else None,
        sum(part.unnamed for part in parts),
        {name: torch.cat([part.curves[name].cpu() for part in parts], dim=2) for name in parts[0].curves},
        {name: error for part in reversed(parts) for name, error in part.errors.items()},
    )
