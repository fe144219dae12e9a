"""What a model must give to be explained and perturbed beside others on the same questions.

Whatever a model calls its tokens, here they are those of "image" and of "text", so that figures stand in the same columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.data.answers import soft_scores
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.vqa import Questions
from clipmapper.truth.scores import deciding
from xai import Relevance, Target, given
from xai.explain import Lrp
from xai.metrics import protocols
from xai.metrics.perturbation import Predict
from xai.recording.recording import Recording

COLUMNS = ("question_id", "image_id", "question_type", "answer_type", "question", "answer")


class Inputs(Protocol):
    """A batch as one kind of model takes it."""

    @property
    def scores(self) -> Tensor:
        """How good each of the model's answers is, [B, answers], 0 to 1."""


@dataclass(frozen=True)
class QuestionBatch:
    """Questions before a model takes them."""

    images: list[Image.Image]
    names: list[str]  # of the image files without their endings, "" where there is no file
    records: dict[str, list[Any]]  # COLUMNS
    scores: Tensor  # [B, answers]


@dataclass(frozen=True)
class PreparedQuestions:
    """Questions as a model takes them, and their records by column."""

    inputs: Any  # Inputs of the model's own kind
    records: dict[str, list[Any]]

    @property
    def ids(self) -> Tensor:
        """Question ids [B]."""
        return torch.tensor(self.records["question_id"], device=self.inputs.scores.device)


@dataclass(frozen=True, eq=False)
class Recorded:
    """One pass, and what of it is explained."""

    recording: Recording
    target: Target
    labels: Tensor  # [B], the likeliest answers
    words: list[list[str]]  # of each sample, of its text tokens


class VQAModel(ABC):
    """A model with a list of answers that it chooses from."""

    module: nn.Module
    answers: Sequence[str]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> "VQAModel":
        self.module.to(device)
        return self

    @abstractmethod
    def prepare(self, batch: QuestionBatch) -> Any:
        """`Inputs` on the model's device. Raises ValueError, with a remedy, for what the model cannot take."""

    @abstractmethod
    def record(self, inputs: Any, lrp: Lrp) -> Recorded:
        """One recorded pass; raises PropagationError if LRP is asked for and the model has an operation without rule."""

    @abstractmethod
    def predictor(self, inputs: Any, labels: Tensor, protocol: protocols.Protocol) -> Predict:
        """Accuracy of the likeliest answer and probability of `labels` [B], where tokens of the recording are removed.

        Raises ValueError for a removal that the modality does not have.
        """

    def deciding(self, truth: Truth, asked: PreparedQuestions, frame: Relevance) -> dict[str, Tensor]:
        """How much of each token decides the answer, [B, tokens] by modality; `frame` is any relevance of the questions."""
        content = frame.content("text").tolist()
        spoken = [
            [token if kept else "" for token, kept in zip_longest(*pair, fillvalue="")]  # padding may have no strings
            for pair in zip(frame.words["text"], content, strict=True)
        ]
        return deciding(truth, asked.records, ~frame.special["image"], spoken, frame.grids["image"])


def ask(model: VQAModel, questions: Questions, rows: Sequence[int]) -> PreparedQuestions:
    """The questions of some rows; those with an unreadable image are left out, whether or not the model sees pixels.

    All that depends on the model comes from `model`, whatever the questions were made for. Raises BadImage if none is left.
    """
    images: dict[int, Image.Image] = {}
    for row in rows:
        with suppress(BadImage):
            images[row] = load_image(questions.source(row))
    if not images:
        raise BadImage(f"no image of {len(rows)} questions can be read")
    records = questions.records.select_columns([*COLUMNS, "answers"])[list(images)]
    known = [soft_scores(answers) for answers in records.pop("answers")]
    scores = torch.tensor([[of.get(answer, 0.0) for answer in model.answers] for of in known])
    sources = [questions.source(row) for row in images]
    names = [Path(source).stem if isinstance(source, str | Path) else "" for source in sources]
    batch = QuestionBatch(list(images.values()), names, records, scores)
    return PreparedQuestions(model.prepare(batch), {"row": list(images), **records})


def answer_logit(labels: Tensor, answers: Sequence[str]) -> Target:
    """The logit of an answer for each sample, named by the answers."""
    return replace(given(labels), name=", ".join(answers[label] for label in labels.tolist()))
