"""The interface of a model that can be explained and compared with others on the same questions.

Whatever a model calls its tokens, here they are those of "image" and of "text", so that figures stand in the same columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.data.answers import soft_scores
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.vqa import Questions
from clipmapper.explain.ground_truth import of_answers
from clipmapper.images import BadImage, load_image
from xai import Relevance, Target, given
from xai.explanation import Lrp
from xai.figures.geometry import Geometry, Size, squash
from xai.metrics import protocols
from xai.metrics.perturbation import Predict
from xai.recording.recording import Recording

COLUMNS = ("question_id", "image_id", "question_type", "answer_type", "question", "answer")


class Inputs(Protocol):
    """A batch as one kind of model takes it."""

    @property
    def scores(self) -> Tensor:
        """Returns how good each of the model's answers is, [B, answers], 0 to 1."""


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
    """A model with a list of answers that it chooses from.

    Attributes:
        module: the module that a recorded pass calls once.
        answers: in the order of its logits.
        description: a line on what it is.
        grid: rows and columns of its patches; None for a model of regions.
    """

    module: nn.Module
    answers: Sequence[str]
    description: str
    grid: tuple[int, int] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        self.module.to(device)
        return self

    @property
    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the submodules of `module` that the sanity check shuffles together, by group."""
        return {"model": tuple(name for name, part in self.module.named_children() if [*part.parameters()])}

    @abstractmethod
    def prepare(self, batch: QuestionBatch) -> Any:
        """Returns `Inputs` on the model's device; raises ValueError, with a remedy, for what the model cannot take."""

    @abstractmethod
    def logits(self, inputs: Any) -> Tensor:
        """Returns the logits of all answers, [B, answers], without a record."""

    @abstractmethod
    def record(self, inputs: Any, lrp: Lrp) -> Recorded:
        """Records one pass; raises PropagationError if LRP is asked for and the model has an operation without rule."""

    @abstractmethod
    def predictor(self, inputs: Any, labels: Tensor, protocol: protocols.Protocol) -> Predict:
        """Returns accuracy of the likeliest answer and probability of `labels` [B], where tokens are removed.

        Raises:
            ValueError: a removal that the modality does not have.
        """

    def ground_truth(self, truth: Truth, questions: PreparedQuestions, frame: Relevance) -> dict[str, Tensor]:
        """Returns how much of each token decides the answer, [B, tokens] by modality.

        Args:
            truth: of the data set.
            questions: as the model takes them.
            frame: any relevance of the questions, with its words.
        """
        assert self.grid is not None
        content = frame.content("text").tolist()
        words = [
            [token if keep else "" for token, keep in zip_longest(*pair, fillvalue="")]  # padding may have no strings
            for pair in zip(frame["text"].words or (), content, strict=True)
        ]
        return of_answers(truth, questions.records, ~frame["image"].special, words, self.grid)

    def patches(self, relevance: Relevance, inputs: Any) -> Tensor:
        """Returns relevance of the image as a grid, [B, rows, columns]."""
        return relevance.map("image").detach().float().cpu()

    def geometry(self, size: Size) -> Geometry:
        """Returns where the pixels of an image of a height and width lie in what the patches cover."""
        return squash(size, size)


def prepare_questions(model: VQAModel, questions: Questions, rows: Sequence[int]) -> PreparedQuestions:
    """Returns the questions of some rows as a model takes them, without those whose image cannot be read.

    All that depends on the model comes from `model`, whatever the questions were made for.

    Raises:
        BadImage: no image can be read.
    """
    images: dict[int, Image.Image] = {}
    for row in rows:
        with suppress(BadImage):
            images[row] = load_image(questions.source(row))
    if not images:
        raise BadImage(f"no image of {len(rows)} questions can be read")
    records = questions.records.select_columns([*COLUMNS, "answers"])[list(images)]
    soft = [soft_scores(answers) for answers in records.pop("answers")]
    scores = torch.tensor([[by.get(answer, 0.0) for answer in model.answers] for by in soft])
    sources = [questions.source(row) for row in images]
    names = [Path(source).stem if isinstance(source, str | Path) else "" for source in sources]
    batch = QuestionBatch(list(images.values()), names, records, scores)
    return PreparedQuestions(model.prepare(batch), {"row": list(images), **records})


def answer_logit(labels: Tensor, answers: Sequence[str]) -> Target:
    """Returns the logit of an answer for each sample, named by the answers."""
    return replace(given(labels), name=", ".join(answers[label] for label in labels.tolist()))
