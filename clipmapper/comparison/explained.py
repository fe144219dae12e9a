"""Questions explained by many methods from one recorded pass."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clipmapper.data.answers import soft_scores
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.vqa import Questions
from clipmapper.errors import unknown
from clipmapper.explain import FromPixels, answer_target, record_answer, words
from clipmapper.model import CLIPMapper
from clipmapper.perturbation import Inputs
from xai import EXPLAINERS, Relevance, explain_tape
from xai.evaluation.ranking import random_relevance
from xai.explain import lrp_of
from xai.explainers import LRP_EXPLAINERS
from xai.lrp.mode import PropagationError
from xai.tape import Tape

RANDOM = "random"  # the floor of every table; always measured, so never chosen
METHODS = tuple(name for name in (*EXPLAINERS, *LRP_EXPLAINERS) if name != RANDOM)
COLUMNS = ("question_id", "image_id", "question_type", "answer_type", "question", "answer")


@dataclass(frozen=True)
class Asked:
    """Questions as a model takes them, and their records by column."""

    inputs: Inputs
    records: dict[str, list[Any]]

    @property
    def ids(self) -> Tensor:
        """Question ids [B]."""
        return torch.tensor(self.records["question_id"], device=self.inputs.ids.device)


@dataclass(frozen=True)
class Explained:
    """`relevances` by method, random scores last; those of a method that raised are NaN, and `errors` says why."""

    asked: Asked
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


def ask(model: CLIPMapper, questions: Questions, rows: Sequence[int]) -> Asked:
    """The questions of some rows, from pixels, on the model's device; those with an unreadable image are left out.

    All that depends on the model comes from `model`, whatever the questions were made for. Raises BadImage if none is left.
    """
    clip, weight, images = model.clip, model.clip.model.visual.conv1.weight, {}
    for row in rows:
        with suppress(BadImage):
            images[row] = clip.pixels(load_image(questions.source(row)))
    if not images:
        raise BadImage(f"no image of {len(rows)} questions can be read")
    records = questions.records.select_columns([*COLUMNS, "answers"])[list(images)]
    ids, mask = clip.tokenize(records["question"])
    given = [soft_scores(answers) for answers in records.pop("answers")]
    scores = torch.tensor([[known.get(answer, 0.0) for answer in model.answers] for known in given])
    pixels = torch.stack(list(images.values())).to(weight)
    inputs = Inputs(pixels, *(t.to(weight.device) for t in (ids, mask, scores)))
    return Asked(inputs, {"row": list(images), **records})


def explain_all(model: CLIPMapper, asked: Asked, methods: Sequence[str]) -> Explained:
    """What the model answers, explained by every method."""
    tape = record_once(model, asked.inputs, methods)
    target, strings = answer_target(model, tape), words(model.clip, asked.inputs.ids, asked.inputs.mask)
    floor = explain_tape(tape, RANDOM, target).with_words(strings)
    noise = {name: random_relevance(asked.ids, t.shape[1], [0])[0] for name, t in floor.scores.items()}
    found: dict[str, Relevance] = {}
    errors: dict[str, str] = {}
    for name in methods:
        try:
            found[name] = explain_tape(tape, name, target).with_words(strings)
        except Exception as error:  # of one method, which must not cost the others their figures
            errors[name] = f"{type(error).__name__}: {error}"
            nothing = {key: torch.full_like(t, torch.nan) for key, t in floor.scores.items()}
            found[name] = replace(floor, scores=nothing, method=name)
    labels = tape.output.detach().argmax(dim=1)
    accuracy = asked.inputs.scores.gather(1, labels[:, None])[:, 0]
    answered = {"predicted": [model.answers[label] for label in labels.tolist()], "accuracy": accuracy.tolist()}
    whole = replace(asked, records={**asked.records, **answered})
    return Explained(whole, labels, {**found, RANDOM: replace(floor, scores=noise)}, errors)


def record_once(model: CLIPMapper, inputs: Inputs, methods: Sequence[str], whole: FromPixels | None = None) -> Tape:
    """One pass for all methods; with rules for relevance if one of them needs it and the model has them."""
    given = (model, inputs.pixels, inputs.ids, inputs.mask)
    try:
        return record_answer(*given, lrp_of(*methods), whole)
    except PropagationError:  # the methods that need it will say so
        return record_answer(*given, None, whole)
