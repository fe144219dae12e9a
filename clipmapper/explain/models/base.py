"""The interface of a model that can be explained and compared with others on the same questions.

Whatever a model calls its tokens, here they are those of "image" and of "text", so that figures stand in the same columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
from clipmapper.images import BadImage, readable
from xai import Relevance, Target, given
from xai.figures.geometry import Geometry, Size, squash
from xai.metrics import protocols
from xai.metrics.perturbation import Predict
from xai.recording.reads import Needs
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
    soft: list[dict[str, float]]  # of each question the soft scores of the annotators' answers, normalised

    def scores(self, answers: Sequence[str]) -> Tensor:
        """Returns how good each of some answers is, [B, answers], 0 to 1."""
        return torch.tensor([[by.get(answer, 0.0) for answer in answers] for by in self.soft])


@dataclass(frozen=True)
class PreparedQuestions:
    """Questions as a model takes them, and their records by column."""

    inputs: Any  # of the model's own kind
    records: dict[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One pass, and what of it is explained."""

    recording: Recording
    target: Target
    labels: Any  # the likeliest answers, as the model has them: their numbers [B], or of each its tokens
    words: list[list[str]]  # of each sample, of its text tokens


class Explainable:
    """A model of images and text that can be recorded.

    Attributes:
        module: the module that a recorded pass calls once.
        description: a line on what it is.
        batch_size: samples that it takes at once, at most.
    """

    module: nn.Module
    description: str
    batch_size: int = 32

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

    def protocol(self, name: str, modality: str) -> protocols.Protocol:
        """Returns how tokens of a modality are removed by a named protocol."""
        return protocols.named(name, modality)

    def geometry(self, size: Size) -> Geometry:
        """Returns where the pixels of an image of a height and width lie in what the patches cover."""
        return squash(size, size)


class VQAModel(Explainable, ABC):
    """A model that answers questions about images.

    Attributes:
        answers: those it chooses from, in the order of its logits; none for a model that writes its answers.
    """

    answers: Sequence[str] = ()

    @abstractmethod
    def prepare(self, batch: QuestionBatch) -> Any:
        """Returns inputs on the model's device; raises ValueError, with a remedy, for what the model cannot take."""

    @abstractmethod
    def answer(self, inputs: Any) -> Any:
        """Returns the likeliest answers as the model has them, without a record."""

    @abstractmethod
    def texts(self, labels: Any) -> list[str]:
        """Returns answers as text."""

    @abstractmethod
    def accuracies(self, inputs: Any, labels: Any) -> list[float]:
        """Returns the soft accuracy of answers, 0 to 1."""

    @abstractmethod
    def record(self, inputs: Any, reads: Needs) -> Recorded:
        """Records one pass; raises PropagationError if LRP is asked for and the model has an operation without rule."""

    @abstractmethod
    def predictor(self, inputs: Any, recorded: Recorded, protocol: protocols.Protocol) -> Predict:
        """Returns accuracy of the likeliest answer, and probability of the recorded one, where tokens are removed.

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
        grid = frame["image"].grid
        if grid is None:
            raise ValueError(
                f"the image tokens of {self.description} lie in no grid, so that objects cannot be found on them"
            )
        content = frame.content("text").tolist()
        words = [
            [token if keep else "" for token, keep in zip_longest(*pair, fillvalue="")]  # padding may have no strings
            for pair in zip(frame["text"].words or (), content, strict=True)
        ]
        return of_answers(truth, questions.records, ~frame["image"].special, words, grid)

    def patches(self, relevance: Relevance, inputs: Any) -> Tensor:
        """Returns relevance of the image as a grid, [B, rows, columns]."""
        return relevance.map("image").detach().float().cpu()


class Classifier(VQAModel):
    """A model that chooses from a list of answers. Its inputs have `scores` [B, answers]."""

    @abstractmethod
    def logits(self, inputs: Any) -> Tensor:
        """Returns the logits of all answers, [B, answers], without a record."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns the probabilities of answers [N, answers]: sigmoids, as the soft labels of VQA are trained."""
        return logits.sigmoid()

    def answer(self, inputs: Any) -> Tensor:
        return self.logits(inputs).argmax(dim=1)

    def texts(self, labels: Tensor) -> list[str]:
        return [self.answers[label] for label in labels.tolist()]

    def accuracies(self, inputs: Inputs, labels: Tensor) -> list[float]:
        return inputs.scores.gather(1, labels[:, None])[:, 0].tolist()


def prepare_questions(model: VQAModel, questions: Questions, rows: Sequence[int]) -> PreparedQuestions:
    """Returns the questions of some rows as a model takes them, without those whose image cannot be read.

    All that depends on the model comes from `model`, whatever the questions were made for.

    Raises:
        BadImage: no image can be read.
    """
    images = readable(rows, questions.source)
    if not images:
        raise BadImage(f"no image of {len(rows)} questions can be read")
    records = questions.records.select_columns([*COLUMNS, "answers"])[list(images)]
    soft = [soft_scores(answers) for answers in records.pop("answers")]
    sources = [questions.source(row) for row in images]
    names = [Path(source).stem if isinstance(source, str | Path) else "" for source in sources]
    batch = QuestionBatch(list(images.values()), names, records, soft)
    return PreparedQuestions(model.prepare(batch), {"row": list(images), **records})


def answer_logit(labels: Tensor, answers: Sequence[str]) -> Target:
    """Returns the logit of an answer for each sample, named by the answers."""
    return replace(given(labels), name=", ".join(answers[label] for label in labels.tolist()))
