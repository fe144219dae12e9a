"""Captions that are written anew without some patches, by the models that ship: as it is done against every prefix anew.

A mapper keeps keys and values of what it has read. A model of transformers, whose tokens are hidden from its attentions, starts
from its old text, and a pass corrects it at all places.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch
from zlib import crc32

import torch
from PIL import Image
from torch import Tensor

from benchmarks.decoding import Reencoding
from benchmarks.entry import Entry, gain
from benchmarks.timing import in_turn
from clipmapper.config import DecodingConfig, ModelSource
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene
from clipmapper.explain.caption_removal import FIGURES, LIKELIHOOD
from clipmapper.explain.models.captioner import CaptionBatch, Captioner, MapperCaptioner
from clipmapper.explain.models.generative import GenerativeCaptioner, Writer
from clipmapper.explain.models.load import load_model
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import Written, greedy, most_tokens, one_by_one
from clipmapper.models.stock.base import DESCRIBE
from xai.generation.batches import Prompts, Run, after
from xai.metrics.perturbation import perturb
from xai.metrics.ranking import random_relevance

BATCH = 64
TEXT = FIGURES[0]


def prefixes_of_mapper(model: CLIPMapper, image_tokens: Tensor, config: DecodingConfig) -> Written:
    first = torch.full((len(image_tokens),), model.start)
    return one_by_one(Reencoding(model, image_tokens), first, model.end, most_tokens(model, config), greedy)


class Prefixes(GenerativeCaptioner):
    """Writes one token a pass over all that is before it; texts that have ended leave the batch."""

    def greedy(self, prompts: Prompts, guess: Tensor | None = None, run: Run | None = None) -> tuple[Tensor, Tensor]:
        run, stops = run or self._run, torch.tensor(sorted(self.ends))
        tokens = prompts.starts.new_full((len(prompts), self.room), self.end)
        likely = torch.zeros(len(prompts))
        if guess is not None:
            scores = prompts.decided(run(prompts.with_tokens(guess), torch.arange(len(prompts)))).log_softmax(dim=-1)
            likely = scores.gather(2, guess[..., None])[..., 0].masked_fill(after(guess, stops), 0).sum(dim=1)
        left = torch.arange(len(prompts))
        for place in range(self.room):
            part = prompts.of(left)
            scores = part.decided(run(part.with_tokens(tokens[left]), left))[:, place]
            tokens[left, place] = scores.index_fill(-1, torch.tensor(sorted(self.never)), -torch.inf).argmax(dim=-1)
            left = left[~torch.isin(tokens[left, place], stops)]
            if not len(left):
                break
        return tokens, likely


def run(quick: bool) -> list[Entry]:
    mapper, llava = (load_model(ModelSource(name)) for name in ("shapes-b-caption", "shapes-llava"))
    assert isinstance(mapper, CLIPMapper) and isinstance(llava, Writer)
    alike, parts = MapperCaptioner(mapper), (llava.module, llava.processor, DESCRIBE)
    anew = patch("clipmapper.explain.caption_removal.write", prefixes_of_mapper)
    return [
        _entry("mapper b", alike, alike, anew, quick),
        _entry("LLaVA", GenerativeCaptioner(*parts), Prefixes(*parts), nullcontext(), quick),
    ]


def _entry(what: str, ours: Captioner, other: Captioner, anew: AbstractContextManager[Any], quick: bool) -> Entry:
    images = [render(sample_scene((77, i))) for i in range(1 if quick else 2)]
    measured = {"ours": _measure(ours, images, quick), "other": _measure(other, images, quick)}
    curves: dict[str, Mapping[str, Tensor]] = {}

    def measure(side: str, context: AbstractContextManager[Any]) -> None:
        with context:
            curves[side] = measured[side]()

    runs = {"ours": lambda: measure("ours", nullcontext()), "other": lambda: measure("other", anew)}
    times = in_turn(runs, rounds=1 if quick else 3, warm=not quick)
    texts, likely = ((curves["ours"][name] - curves["other"][name]).abs().max() for name in (TEXT, LIKELIHOOD))
    return gain(
        f"{what}: captions without patches, as it is done / every prefix anew",
        times,
        "ours",
        "other",
        note="OTHER captions" if texts else "same captions",
        extra={"largest difference of a log-probability": float(likely)},
    )


def _measure(model: Captioner, images: Sequence[Image.Image], quick: bool) -> Callable[[], Mapping[str, Tensor]]:
    """Returns what measures which captions are written without patches, and how likely the old ones are, of random maps."""
    inputs, samples = model.prepare(images), torch.arange(len(images))
    captions = CaptionBatch(inputs, model.write(inputs))
    recorded = model.record(captions, None)
    protocol = model.protocol("wra" if quick else "recommended", "image")
    predict = model.predictor(captions, recorded, protocol, _numbered, range(len(images)))
    mask = torch.ones(len(images), recorded.recording.mask[:, recorded.recording.modalities["image"]].shape[1]).bool()
    removable = mask.clone()
    removable[:, 0] = False  # the class token
    relevance = random_relevance(samples, mask.shape[1], seeds=range(1 if quick else 2))
    return lambda: perturb(relevance, removable, samples, predict, protocol, mask, BATCH)


def _numbered(texts: Sequence[str], images: Sequence[int]) -> Tensor:
    """Returns a number of each caption in the place of its scores."""
    return torch.tensor([[crc32(text.encode()) for text in texts]] * 2, dtype=torch.float64)
