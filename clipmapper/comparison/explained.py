"""Questions explained by many methods from one recorded pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from clipmapper.data.vqa import Questions
from clipmapper.errors import unknown
from clipmapper.explain.answers import FromPixels
from clipmapper.explain.models import base
from clipmapper.explain.models.base import PreparedQuestions, VQAModel
from clipmapper.explain.models.mapper import MapperModel, vqa_model
from clipmapper.explain.removal import Inputs
from clipmapper.models.clip_mapper import CLIPMapper
from xai import EXPLAINERS, Relevance, explain_recording
from xai.explain import explain_each, record_for
from xai.explainers import LRP_EXPLAINERS
from xai.metrics.ranking import random_relevance
from xai.recording.recording import Recording

RANDOM = "random"  # the floor of every table; always measured, so never chosen
METHODS = tuple(name for name in (*EXPLAINERS, *LRP_EXPLAINERS) if name != RANDOM)


@dataclass(frozen=True)
class Explained:
    """`relevances` by method, random scores last; those of a method that raised are NaN, and `errors` says why."""

    asked: PreparedQuestions
    target: Tensor  # [B], the answer that is explained
    relevances: dict[str, Relevance]
    errors: dict[str, str]


def chosen(names: str | Sequence[str]) -> tuple[str, ...]:
    """The methods of a list, or all for "all"; raises ValueError for an unknown one."""
    if isinstance(names, str):
        names = METHODS if names == "all" else [name.strip() for name in names.split(",")]
    for name in names:
        if name not in (*METHODS, RANDOM):
            raise unknown("explainer", name, METHODS)
    return tuple(dict.fromkeys(name for name in names if name != RANDOM))


def ask(model: CLIPMapper | VQAModel, questions: Questions, rows: Sequence[int]) -> PreparedQuestions:
    """The questions of some rows on the model's device, as `explain.models.base.ask` does."""
    return base.ask(vqa_model(model), questions, rows)


def explain_all(model: CLIPMapper | VQAModel, asked: PreparedQuestions, methods: Sequence[str]) -> Explained:
    """What the model answers, explained by every method."""
    model = vqa_model(model)
    recorded = record_for(methods, partial(model.record, asked.inputs))
    recording, target, labels = recorded.recording, recorded.target, recorded.labels
    floor = explain_recording(recording, RANDOM, target).with_words(recorded.words)
    noise = {name: random_relevance(asked.ids, t.shape[1], [0])[0] for name, t in floor.scores.items()}
    found, errors = explain_each(recording, methods, target)
    found = {name: relevance.with_words(recorded.words) for name, relevance in found.items()}
    accuracy = asked.inputs.scores.gather(1, labels[:, None])[:, 0]
    answered = {"predicted": [model.answers[label] for label in labels.tolist()], "accuracy": accuracy.tolist()}
    whole = replace(asked, records={**asked.records, **answered})
    return Explained(whole, labels, {**found, RANDOM: replace(floor, scores=noise)}, errors)


def record_once(
    model: CLIPMapper, inputs: Inputs, methods: Sequence[str], whole: FromPixels | None = None
) -> Recording:
    """One pass for all methods; with rules for relevance if one of them needs it and the model has them."""
    return record_for(methods, partial(MapperModel(model, whole).record, inputs)).recording
