"""A batch explained by every method from one recorded pass, with random scores as the floor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from clipmapper.comparison.explained import RANDOM, chosen
from clipmapper.comparison.measure import RANDOM_SEEDS
from clipmapper.data.images import BadImage
from xai import Adapter, record
from xai.explain import Lrp, explain_each, record_for
from xai.metrics import ranking
from xai.metrics.ranking import random_relevance
from xai.recording.recording import Recording, Score

T = TypeVar("T")

PAPERS = "rollout,raw_attention,attention_gradcam,full_lrp,partial_lrp,transatt,genatt,wra"


@dataclass
class Methods:
    """The methods of a run, and why those that failed did so."""

    names: tuple[str, ...]
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def with_floor(self) -> tuple[str, ...]:
        return (*self.names, RANDOM)

    def scores(self, recording: Recording, target: Score, modality: str) -> Tensor:
        """[methods, B, tokens]; NaN for a method that failed, whose first error is kept."""
        found, errors = explain_each(recording, self.names, target)
        self.errors = errors | self.errors
        tokens = recording.mask[:, recording.modalities[modality]]
        none = tokens.new_zeros(0, *tokens.shape, dtype=torch.float32)
        return torch.cat([none, *(relevance.scores[modality].float()[None] for relevance in found.values())])


def methods_of(names: str) -> Methods:
    """For `papers`, `all`, or names with commas between; raises ValueError for an unknown one."""
    return Methods(chosen(PAPERS if names == "papers" else names))


def recorded(model: nn.Module, adapter: Adapter, inputs: Mapping[str, Any], methods: Methods) -> Recording:
    """One pass for all methods; with rules for relevance if one of them needs it and the model has them."""

    def pass_with(lrp: Lrp) -> Recording:
        with record(model, adapter, lrp) as recorder:
            model(**inputs)
        return recorder.recording

    return record_for(methods.names, pass_with)


def floor(ids: Tensor, tokens: int) -> Tensor:
    """Random scores [seeds, B, tokens], which depend on seed and sample alone."""
    return random_relevance(ids, tokens, RANDOM_SEEDS)


def mean_floor(values: Tensor, methods: Methods) -> Tensor:
    """[methods + seeds, ...] to [methods + 1, ...], with the mean over the seeds last."""
    return ranking.mean_floor(values, len(methods.names))


def on_grid(recording: Recording, scores: Tensor, modality: str = "image") -> Tensor:
    """Scores [..., B, tokens] of a modality to those of its patches, [..., B, rows, columns]."""
    patches = ~recording.special[0, recording.modalities[modality]]
    return scores[..., patches].unflatten(-1, recording.grids[modality])


def spread(count: int, samples: int | None) -> list[int]:
    """Rows from all over `count`."""
    if not count:
        raise ValueError("the data has no sample")
    return torch.linspace(0, count - 1, min(samples or count, count), dtype=torch.float64).long().tolist()


def readable(samples: Sequence[T], read: Callable[[T], object]) -> list[T]:
    """Those that can be read, found out before the long work, so that a damaged file costs no more than itself.

    Says which are left out. Raises BadImage if none is left.
    """
    good = []
    for sample in tqdm(samples, desc="reading", unit="image"):
        try:
            read(sample)
        except (BadImage, OSError) as error:
            tqdm.write(f"left out: {error}")
        else:
            good.append(sample)
    if not good:
        raise BadImage(f"none of {len(samples)} images can be read")
    return good
