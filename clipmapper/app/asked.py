"""What a model says of one picture, why, and what is left of it without some patches: the page without its page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipmapper.app.models import Model, has_rivals
from clipmapper.benchmark.tasks.answers import answer_explanation
from clipmapper.benchmark.tasks.caption_report import caption_explanation
from clipmapper.errors import unknown
from clipmapper.explain.caption_removal import FIGURES, LIKELIHOOD
from clipmapper.explain.models.base import Classifier, QuestionBatch, VQAModel
from clipmapper.explain.models.captioner import CaptionBatch, Captioner
from clipmapper.images import BadImage, load_image
from xai import Relevance, Target, difference, given
from xai.explanation import explain_each, record_for
from xai.metrics.perturbation import Predict, keep_masks, perturb
from xai.metrics.protocols import Protocol
from xai.metrics.ranking import token_noise
from xai.report.data import Explanation
from xai.targets import logits

QUESTION = 300  # letters at most
PIXELS = 40_000_000  # at most, which take half a second to read
TOP = 5  # answers shown
RUNS = 64  # pictures without patches that run at once
computing = Lock()  # recording changes a model while it runs: one at a time


class Numbers(dict[str, float]):
    """Scores that number the texts they are asked for, so that the "accuracy" of what a model says tells what it is."""

    def get(self, text: str, default: Any = None) -> float:
        """Returns the number of a text, a new one where it has none."""
        return self.setdefault(text, float(len(self)))

    def text(self, number: float) -> str:
        """Returns the text of a number."""
        return list(self)[int(number)]

    def __call__(self, texts: Sequence[str], images: Sequence[int]) -> Tensor:
        """Returns the numbers of captions, [1, N], in the place of their scores."""
        return torch.tensor([[self.get(text) for text in texts]])


@dataclass(frozen=True, eq=False)
class Request:
    """A picture and what is asked about it.

    Attributes:
        model: its name.
        image: as RGB pixels.
        question: "" of a model that captions.
    """

    model: str
    image: Image.Image
    question: str = ""


@dataclass(frozen=True, eq=False)
class Explained:
    """What a model said, and why.

    Attributes:
        said: the answer, or the caption.
        answers: the likeliest with their probabilities; none of a model that captions.
        target: what is explained, in words.
        explanations: by method.
        errors: why methods failed.
        scores: of the methods that did not, of the image's tokens, [methods, 1, tokens].
        removable: which of them are patches, [1, tokens].
        grid: rows and columns of the patches.
        figure: what removal is measured by, a name of what the predictor returns, and `number` that of what is said.
        numbers: of what is said.
        predictor: what runs the model without some tokens.
    """

    said: str
    answers: list[tuple[str, float]]
    target: str
    explanations: dict[str, Explanation]
    errors: dict[str, str]
    scores: Tensor
    removable: Tensor
    grid: tuple[int, int]
    figure: str
    number: str
    numbers: Numbers
    predictor: Callable[[Protocol], Predict]


@dataclass(frozen=True, eq=False)
class Stage:
    """What is left once a share of the patches is removed.

    Attributes:
        share: 0 to 1.
        values: of the figure, by method and direction.
        said: by the model, in each direction by the first method's order.
        kept: patches of that order, [directions, rows, columns].
    """

    share: float
    values: dict[str, tuple[float, ...]]
    said: tuple[str, ...]
    kept: Tensor


def picture_of(path: str | None) -> Image.Image:
    """Reads an uploaded picture.

    Raises:
        BadImage: there is none, it cannot be read, or it is too large; the message names the file without its folder.
    """
    if not path:
        raise BadImage("there is no picture yet; upload one or choose an example")
    name = Path(path).name
    try:
        with Image.open(path) as opened:  # reads the head alone
            large = opened.width * opened.height > PIXELS
    except Image.DecompressionBombError:
        large = True
    except (OSError, ValueError, SyntaxError):
        large = False  # what is wrong is told below
    if large:
        raise BadImage(f"{name} has more than the {PIXELS // 10**6} million pixels that are read here; make it smaller")
    try:
        return load_image(path)
    except BadImage as error:
        raise BadImage(str(error).replace(str(path), name)) from error


def question_of(text: str | None) -> str:
    """Returns a question; raises ValueError for an empty or a very long one."""
    question = " ".join((text or "").split())
    if not question:
        raise ValueError("the question is empty; write one, such as: What color is the circle?")
    if len(question) > QUESTION:
        raise ValueError(f"the question has {len(question)} letters; ask one of at most {QUESTION}")
    return question


def explained(
    model: Model, request: Request, methods: Sequence[str], answer: str | None = None, rival: str | None = None
) -> Explained:
    """Asks a model and explains what it says by several methods; one that fails costs the others nothing.

    Args:
        model: that `request` names.
        request: the picture and the question.
        methods: their names.
        answer: that is explained; None or "" for the model's own.
        rival: the answer that it is explained against; None or "" for none.

    Raises:
        ValueError: no method, an answer that the model does not know, or nothing that it says.
    """
    if not methods:
        raise ValueError("no method is chosen; choose at least one under 'Explained by'")
    with computing:
        if isinstance(model, Captioner):
            return _caption(model, request, methods)
        return _answer(model, request, methods, answer or None, rival or None)


def stages(model: Model, found: Explained) -> Iterator[Stage]:
    """Removes patches step by step, the most relevant first and the least relevant first, by every method that did not fail.

    Args:
        model: that was asked.
        found: what it said.

    Raises:
        ValueError: all methods failed, or the model's patches cannot be removed.
    """
    if not len(found.scores):
        raise ValueError("no method has a map by which patches could be removed; choose another one")
    with computing:
        protocol = model.protocol("recommended", "image")
        predict = found.predictor(protocol)
    samples = torch.zeros(1, dtype=torch.long, device=found.removable.device)
    noise = token_noise(samples, found.removable.shape[1], 0)
    kept = keep_masks(found.scores[:1], found.removable, protocol, noise)[0, :, 0].cpu()  # [directions, steps, tokens]
    names = list(found.explanations)
    for step, share in enumerate(protocol.shares):
        with computing:
            curves = perturb(found.scores, found.removable, samples, predict, protocol, batch_size=RUNS, steps=[step])
        values, numbers = (curves[name][:, :, 0, 0].tolist() for name in (found.figure, found.number))
        yield Stage(
            share,
            {name: tuple(by_direction) for name, by_direction in zip(names, values, strict=True)},
            tuple(found.numbers.text(number) for number in numbers[0]),
            kept[:, step, found.removable[0].cpu()].unflatten(1, found.grid),
        )


def _answer(
    model: VQAModel, request: Request, methods: Sequence[str], answer: str | None, rival: str | None
) -> Explained:
    numbers = Numbers()
    record = {"question_id": 0, "image_id": 0, "question": request.question}
    columns = {name: [record.get(name, "")] for name in (*record, "question_type", "answer_type", "answer")}
    inputs = model.prepare(QuestionBatch([request.image], [""], columns, [numbers]))
    recorded = record_for(methods, partial(model.record, inputs))
    target: Target = recorded.target
    if answer is not None or rival is not None:
        (own,) = model.texts(recorded.labels)
        if not isinstance(model, Classifier) or not has_rivals(model):
            raise ValueError(f"{request.model} gives one answer at a time, which is not explained against others")
        label, target = _contrast(model, answer or own, rival)
        recorded = replace(recorded, labels=torch.full_like(recorded.labels, label))
    relevances, errors = explain_each(recorded.recording, methods, target)
    spoken = {name: r.with_words(recorded.words) for name, r in relevances.items() if name not in errors}
    said = model.texts(model.answer(inputs))[0]
    return Explained(
        said,
        _ranked(model, inputs, said, recorded),
        target.name if rival is not None else model.texts(recorded.labels)[0],
        {name: answer_explanation(model, relevance, inputs, 0) for name, relevance in spoken.items()},
        _without_class(errors),
        **_patches(relevances, errors),
        figure="probability",
        number="accuracy",
        numbers=numbers,
        predictor=partial(model.predictor, inputs, recorded),
    )


def _contrast(model: Classifier, answer: str, rival: str | None) -> tuple[int, Target]:
    """Returns the number of an answer, and the target of its logit, or of how far it is above a rival's."""
    for name in (answer, rival):
        if name is not None and name not in model.answers:
            raise unknown("answer of this model", name, model.answers)
    label = list(model.answers).index(answer)

    def probability(outputs: Any) -> Tensor:
        return model.probabilities(logits(outputs))[:, label]

    if rival is None:
        return label, replace(given(label), name=answer, probability=probability)
    if rival == answer:
        raise ValueError(f"{answer!r} cannot be explained against itself; choose another answer under 'rather than'")
    target = difference(label, list(model.answers).index(rival))
    return label, replace(target, name=f"{answer} rather than {rival}")


@torch.no_grad()
def _ranked(model: VQAModel, inputs: Any, said: str, recorded: Any) -> list[tuple[str, float]]:
    """Returns the likeliest answers; of a model that writes, the one that it wrote."""
    if isinstance(model, Classifier):
        values, labels = model.probabilities(model.logits(inputs))[0].topk(min(TOP, len(model.answers)))
        return [(model.answers[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]
    image = recorded.recording.modalities["image"]
    protocol = model.protocol("recommended", "image")
    whole = torch.ones_like(recorded.recording.mask[:, image])
    rows = torch.zeros(1, dtype=torch.long, device=whole.device)
    figures = perturb(
        whole[None].float(), whole, rows, model.predictor(inputs, recorded, protocol), protocol, steps=[0]
    )
    return [(said, float(figures["probability"][0, 0, 0, 0]))]


def _caption(model: Captioner, request: Request, methods: Sequence[str]) -> Explained:
    inputs, numbers = model.prepare([request.image]), Numbers()
    (tokens,) = model.write(inputs)
    if not tokens:
        raise ValueError(f"{request.model} says nothing about this picture; try another one")
    captions = CaptionBatch(inputs, [tokens])
    recorded = record_for(methods, partial(model.record, captions))
    relevances, errors = explain_each(recorded.recording, methods, recorded.target)
    by_word = {name: model.relevance(captions, r) for name, r in relevances.items() if name not in errors}
    return Explained(
        model.text(tokens),
        [],
        "",
        {name: caption_explanation(relevance) for name, relevance in by_word.items()},
        _without_class(errors),
        **_patches({name: relevance.whole() for name, relevance in by_word.items()}, errors),
        figure=LIKELIHOOD,
        number=FIGURES[0],
        numbers=numbers,
        predictor=lambda protocol: model.predictor(captions, recorded, protocol, numbers, [0]),
    )


def _patches(relevances: dict[str, Relevance], errors: dict[str, str]) -> dict[str, Any]:
    """Returns the scores of the image's tokens by the methods that did not fail, and which of them are patches."""
    maps = [relevance["image"] for name, relevance in relevances.items() if name not in errors]
    if not maps:
        return {"scores": torch.empty(0), "removable": torch.empty(0), "grid": (0, 0)}
    grid = maps[0].grid
    if grid is None:
        raise ValueError("the image's tokens of this model lie in no grid, so that no map can be drawn")
    return {"scores": torch.stack([m.scores.float() for m in maps]), "removable": maps[0].content, "grid": grid}


def _without_class(errors: dict[str, str]) -> dict[str, str]:
    return {name: text.partition(": ")[2] or text for name, text in errors.items()}
