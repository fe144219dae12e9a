"""Classifiers of transformers that take a picture and a question: ViLT and its like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipmapper.explain.models.base import Classifier, QuestionBatch, Recorded, answer_logit
from clipmapper.explain.models.stock import Pass, RecordedStock, Stock
from clipmapper.explain.removal import figures
from xai import predicted
from xai.generation.inputs import moved
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol
from xai.recording.reads import EVERYTHING, Needs
from xai.targets import logits


@dataclass(frozen=True, eq=False)
class ClassifierInputs:
    """Questions and pictures as the model takes them."""

    arguments: dict[str, Any]
    words: list[list[str]]
    scores: Tensor  # [B, answers]


class TransformersClassifier(Stock, Classifier):
    """A model whose head chooses an answer. The probability is a sigmoid, as VQA's soft labels are trained.

    Args:
        model: a model of transformers for VQA, from pixels and ids to `logits`.
        processor: the model's.
        answers: in the order of the logits.
    """

    def __init__(self, model: Any, processor: Any, answers: Sequence[str]) -> None:
        super().__init__(model, processor)
        self.answers = answers
        self.description = f"{self.description}, {len(answers)} answers"

    def probe(self) -> Pass:
        return self.recorded(self._arguments([Image.new("RGB", (64, 64))], ["what?"]), predicted(), EVERYTHING)

    def prepare(self, batch: QuestionBatch) -> ClassifierInputs:
        arguments = self._arguments(batch.images, batch.records["question"])
        words = [self.pieces(ids) for ids in arguments["input_ids"].tolist()]
        return ClassifierInputs(arguments, words, batch.scores(self.answers).to(self.device))

    def record(self, inputs: ClassifierInputs, reads: Needs) -> RecordedStock:
        whole = self.recorded(inputs.arguments, predicted(), reads)
        labels = logits(whole.recording.output).detach().argmax(dim=1)
        return RecordedStock(whole.recording, answer_logit(labels, self.answers), labels, inputs.words, whole)

    @torch.no_grad()
    def logits(self, inputs: ClassifierInputs) -> Tensor:
        return logits(self.module(**inputs.arguments))

    def predictor(self, inputs: ClassifierInputs, recorded: Recorded, protocol: Protocol) -> Predict:
        assert isinstance(recorded, RecordedStock)
        run, labels = self.without(recorded.whole, protocol, inputs.arguments), recorded.labels

        @torch.no_grad()
        def predict(batch: Perturbed) -> Mapping[str, Tensor]:
            rows = {name: value[batch.rows] for name, value in inputs.arguments.items()}
            found = logits(run(batch, rows, self.module))
            return figures(found, self.probabilities(found), inputs.scores[batch.rows], labels[batch.rows])

        return predict

    def _arguments(self, images: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, Tensor]:
        most = getattr(self.module.config, "max_position_embeddings", None)
        made = self.processor(
            images=list(images),
            text=list(questions),
            padding=True,
            truncation=True,
            max_length=most,
            return_tensors="pt",
        )
        return {name: moved(value, next(self.module.parameters())) for name, value in made.items()}
