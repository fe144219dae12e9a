"""SigLIP, CLIP and other dual encoders of transformers, zero-shot: the image is compared with a prompt for each answer.

As in `zero_shot`, what is explained is the similarity with the chosen answer's prompt, and its words are those of the question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipmapper.explain.models.base import Classifier, QuestionBatch, Recorded
from clipmapper.explain.models.stock import Pass, RecordedStock, Stock, differing, questions_alone
from clipmapper.explain.removal import figures
from xai import similarity
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol
from xai.recording.reads import EVERYTHING, Needs

TEXTS = 256  # prompts that are encoded at once


@dataclass(frozen=True, eq=False)
class Prompted:
    """Questions with all their prompts, a question and an answer each.

    Attributes:
        images: what the image tower takes, by name.
        ids: [B, answers, T].
        spans: where each question is in its prompts.
        features: of the prompts, [B, answers, E].
        scores: [B, answers].
    """

    images: dict[str, Tensor]
    ids: Tensor
    spans: list[slice]
    features: Tensor
    scores: Tensor


class DualEncoder(Stock, Classifier):
    """A model of transformers with features of images and of texts; prompts are padded to its context, as SigLIP was trained.

    Args:
        model: with `get_image_features`, `get_text_features` and `logit_scale`.
        processor: the model's.
        answers: those it chooses from.
    """

    def __init__(self, model: Any, processor: Any, answers: Sequence[str]) -> None:
        super().__init__(model, processor)
        self.answers = answers
        self.context = model.config.text_config.max_position_embeddings
        self.description = f"{self.description}, zero-shot"

    def probe(self) -> Pass:
        arguments = {**self._images([Image.new("RGB", (64, 64))]), "input_ids": self._ids(["what?"])}
        return self.recorded(arguments, similarity(), EVERYTHING)

    @torch.no_grad()
    def prepare(self, batch: QuestionBatch) -> Prompted:
        questions = batch.records["question"]
        ids = torch.stack([self._ids([f"{question} {answer}" for answer in self.answers]) for question in questions])
        spans = []
        for question, prompts in zip(questions, ids, strict=True):
            bare = self._ids([self.answers[0]])[0]
            span = differing(*(_without_filler(row) for row in (prompts[0].tolist(), bare.tolist())))
            if not bool((prompts[:, : span.stop] == prompts[0, : span.stop]).all()):
                raise ValueError(
                    f"{question!r} is cut into other tokens before some answers; its words cannot be told apart"
                )
            spans.append(span)
        features = torch.stack([torch.cat([self._text(part) for part in prompts.split(TEXTS)]) for prompts in ids])
        return Prompted(self._images(batch.images), ids, spans, features, batch.scores(self.answers).to(ids.device))

    def record(self, inputs: Prompted, reads: Needs) -> RecordedStock:
        labels = self.logits(inputs).argmax(dim=1)
        chosen = inputs.ids[torch.arange(len(labels), device=labels.device), labels]
        target = replace(similarity(), name=", ".join(self.texts(labels)))
        whole = self.recorded({**inputs.images, "input_ids": chosen}, target, reads)
        recording = questions_alone(whole.recording, inputs.spans)
        words = [self.pieces(ids) for ids in chosen.tolist()]
        return RecordedStock(recording, target, labels, words, replace(whole, recording=recording))

    @torch.no_grad()
    def logits(self, inputs: Prompted) -> Tensor:
        return self._logits(self._image(**inputs.images), inputs.features)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns the softmax over the answers."""
        return logits.softmax(dim=1)

    @torch.no_grad()
    def predictor(self, inputs: Prompted, recorded: Recorded, protocol: Protocol) -> Predict:
        """The probability is the softmax over the answers. What stays whole is encoded once."""
        assert isinstance(recorded, RecordedStock)
        whole, labels = recorded.whole, recorded.labels
        run = self.without(whole, protocol, inputs.images)
        if protocol.modality == "image":

            def answers(batch: Perturbed) -> Tensor:
                rows = {name: value[batch.rows] for name, value in inputs.images.items()}
                return self._logits(run(batch, rows, self._image), inputs.features[batch.rows])
        else:
            image = self._image(**inputs.images)

            def answers(batch: Perturbed) -> Tensor:
                return self._logits(image[batch.rows], self._hidden_prompts(whole, inputs, batch))

        @torch.no_grad()
        def predict(batch: Perturbed) -> Mapping[str, Tensor]:
            found = answers(batch)
            return figures(found, self.probabilities(found), inputs.scores[batch.rows], labels[batch.rows])

        return predict

    def _hidden_prompts(self, whole: Pass, inputs: Prompted, batch: Perturbed) -> Tensor:
        """Features [N, answers, E] of all prompts with the question's tokens in `keep` alone."""
        count, parts = len(self.answers), []
        for at in torch.arange(len(batch.rows)).split(max(1, TEXTS // count)):
            rows, keep = (t[at].repeat_interleave(count, dim=0) for t in (batch.rows, batch.keep))
            with whole.hidden.except_for("text", keep, rows):
                parts.append(self._text(inputs.ids[batch.rows[at]].flatten(0, 1)).unflatten(0, (-1, count)))
        return torch.cat(parts)

    def _images(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        like = next(self.module.parameters())
        return {"pixel_values": self.images(images=list(images), return_tensors="pt")["pixel_values"].to(like)}

    def _ids(self, texts: Sequence[str]) -> Tensor:
        made = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        )
        return made["input_ids"].to(self.device)

    def _image(self, **images: Tensor) -> Tensor:
        return _features(self.module.get_image_features(**images))

    def _text(self, ids: Tensor) -> Tensor:
        return _features(self.module.get_text_features(input_ids=ids))

    def _logits(self, image: Tensor, prompts: Tensor) -> Tensor:
        """Similarities [N, answers] of images [N, E] with prompts [N, answers, E]; SigLIP's bias is the same for all answers."""
        return self.module.logit_scale.exp() * (prompts @ image[..., None])[..., 0]


def _features(output: Any) -> Tensor:
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


def _without_filler(ids: Sequence[int]) -> list[int]:
    """Ids without what repeats at their end, except for one."""
    count = len(ids)
    while count > 1 and ids[count - 2] == ids[-1]:
        count -= 1
    return list(ids[:count])
