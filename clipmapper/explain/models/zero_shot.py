"""CLIP as a VQA model without training: the image is compared with a prompt for each answer, the question and the answer.

What is explained is the similarity with the chosen answer's prompt. Its words are those of the question: the answer is
what is asked about, so its tokens are special, like start and end, and are never removed. When words of the question are
removed they are so in the prompts of all answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmapper.explain.answers import preprocessing, words
from clipmapper.explain.models.base import Classifier, QuestionBatch, Recorded
from clipmapper.explain.removal import SHORTER, figures, image_states, word_states
from clipmapper.models.clip import FrozenCLIP, text_tower
from xai import Adapter, record
from xai.adapters.clip import open_clip
from xai.figures.geometry import Geometry, Size
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol, Removal
from xai.recording.adapter import Layout, Stream
from xai.recording.reads import Needs
from xai.targets import similarity

TEXTS = 1024  # prompts that are encoded at once


@dataclass(frozen=True, eq=False)
class ZeroShotInputs:
    """Questions with all their prompts: start, question, answer, end; padded with 0."""

    pixels: Tensor  # [B, 3, H, W]
    ids: Tensor  # [B, answers, T]
    lengths: Tensor  # [B], tokens of each question
    prompts: Tensor  # [B, answers, E], their features
    scores: Tensor  # [B, answers]


class ZeroShotModel(Classifier):
    """Raises ValueError for a CLIP whose poolings are not known, and for answers that its context cannot hold."""

    def __init__(self, clip: FrozenCLIP, answers: Sequence[str]) -> None:
        self.module, self.answers, self.clip = clip, answers, clip
        self.description = f"{clip.name} with weights {clip.pretrained}, zero-shot"
        self.adapter = open_clip(clip.model)
        self.context = len(text_tower(clip.model).positional_embedding)
        ids, mask = clip.tokenize(answers)
        self.tails = ids[:, 1:].where(mask[:, 1:], 0)  # [answers, L]: each with the end token
        if self.tails.shape[1] + 2 > self.context:
            raise ValueError(f"an answer takes all {self.context} tokens of {clip.name}: give fewer or shorter answers")

    @torch.no_grad()
    def prepare(self, batch: QuestionBatch) -> ZeroShotInputs:
        weight = self.clip.model.visual.conv1.weight
        ids, lengths = (t.to(weight.device) for t in self._prompts(batch.records["question"]))
        rows = torch.arange(len(ids), device=ids.device)
        prompts = self._encoded(ids, rows, ids.new_ones(len(ids), ids.shape[2]).bool(), lengths, "drop")
        pixels = torch.stack([self.clip.pixels(image) for image in batch.images]).to(weight)
        return ZeroShotInputs(pixels, ids, lengths, prompts, batch.scores(self.answers).to(weight.device))

    def record(self, inputs: ZeroShotInputs, reads: Needs) -> Recorded:
        with torch.no_grad():
            image = F.normalize(self.clip.model.encode_image(inputs.pixels), dim=-1)
        labels = self._logits(image, inputs.prompts).argmax(dim=1)
        chosen = inputs.ids[torch.arange(len(labels), device=labels.device), labels]
        text = F.pad(chosen, (0, self.context - chosen.shape[1]))  # open_clip takes whole contexts only
        with record(self.clip.model, _asked_alone(self.adapter, inputs.lengths), reads) as recorder:
            self.clip.model(inputs.pixels, text)
        target = replace(similarity(), name=", ".join(self.answers[label] for label in labels.tolist()))
        return Recorded(recorder.recording, target, labels, words(self.clip, chosen, _real(chosen)))

    @torch.no_grad()
    def logits(self, inputs: ZeroShotInputs) -> Tensor:
        image = F.normalize(self.clip.model.encode_image(inputs.pixels), dim=-1)
        return self._logits(image, inputs.prompts)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns the softmax over the answers."""
        return logits.softmax(dim=1)

    def geometry(self, size: Size) -> Geometry:
        return preprocessing(self.clip)(size)

    @torch.no_grad()
    def predictor(self, inputs: ZeroShotInputs, recorded: Recorded, protocol: Protocol) -> Predict:
        """The probability is the softmax over the answers. Prompts are encoded once where patches are removed."""
        visual, labels = self.clip.model.visual, recorded.labels
        if protocol.modality == "image":
            left = image_states(self.clip, inputs.pixels, protocol.removal)

            def answers(batch: Perturbed) -> Tensor:
                return self._logits(_pooled(visual, left(batch)), inputs.prompts[batch.rows])
        else:
            image = F.normalize(self.clip.model.encode_image(inputs.pixels), dim=-1)

            def answers(batch: Perturbed) -> Tensor:
                questions = inputs.ids, batch.rows, batch.keep[:, : inputs.ids.shape[2]], inputs.lengths
                return self._logits(image[batch.rows], self._encoded(*questions, protocol.removal))

        def predict(batch: Perturbed) -> dict[str, Tensor]:
            logits = answers(batch)
            return figures(logits, self.probabilities(logits), inputs.scores[batch.rows], labels[batch.rows])

        return predict

    def _prompts(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [B, answers, T] and tokens of each question [B]; questions are cut so that every answer fits."""
        ids, mask = self.clip.tokenize(questions)
        lengths = (mask.sum(dim=1) - 2).clamp(max=self.context - 1 - self.tails.shape[1])
        prompt_ids = ids.new_zeros(len(ids), len(self.tails), 1 + int(lengths.max()) + self.tails.shape[1])
        for prompts, question, length in zip(prompt_ids, ids, lengths.tolist(), strict=True):
            prompts[:, : 1 + length] = question[: 1 + length]
            prompts[:, 1 + length : 1 + length + self.tails.shape[1]] = self.tails
        return prompt_ids, lengths

    def _encoded(self, ids: Tensor, rows: Tensor, keep: Tensor, lengths: Tensor, removal: Removal) -> Tensor:
        """Features [N, answers, E] of the prompts of questions `rows` [N] with the question's tokens in keep [N, T] alone."""
        positions = torch.arange(ids.shape[2], device=ids.device)
        keep = F.pad(keep, (0, ids.shape[2] - keep.shape[1]), value=True) | (positions > lengths[rows, None])
        size = max(1, TEXTS // len(rows))
        parts = [self._features(part, keep, removal) for part in ids[rows].split(size, dim=1)]
        return torch.cat(parts, dim=1)

    def _features(self, ids: Tensor, keep: Tensor, removal: Removal) -> Tensor:
        """Features [N, a, E] of prompts [N, a, T]. What follows a prompt's end is never read: CLIP's text is causal."""
        tower, flat = text_tower(self.clip.model), ids.flatten(0, 1)
        kept = keep[:, None].expand_as(ids).flatten(0, 1) & _real(flat)
        counts, rows = kept.sum(dim=1), torch.arange(len(flat), device=flat.device)
        states = word_states(self.clip, flat, removal)(Perturbed(rows, kept, int(counts.max())))
        ends = counts - 1 if removal in SHORTER else flat.argmax(dim=1)
        features, project = states[rows, ends], tower.text_projection
        if project is not None:
            features = project(features) if isinstance(project, nn.Linear) else features @ project
        return F.normalize(features, dim=-1).unflatten(0, ids.shape[:2])

    def _logits(self, image: Tensor, prompts: Tensor) -> Tensor:
        """Similarities [N, answers] of images [N, E] with prompts [N, answers, E]."""
        return self.clip.model.logit_scale.exp() * (prompts @ image[..., None])[..., 0]


def _real(ids: Tensor) -> Tensor:
    """True up to the end token, which has the highest id; 0 is not padding alone."""
    return torch.arange(ids.shape[-1], device=ids.device) <= ids.argmax(dim=-1, keepdim=True)


def _pooled(visual: Any, states: Tensor) -> Tensor:
    """Features of the image tower's tokens."""
    embedding = visual._pool(states)[0]
    return F.normalize(embedding if visual.proj is None else embedding @ visual.proj, dim=-1)


def _asked_alone(adapter: Adapter, lengths: Tensor) -> Adapter:
    """The adapter with all text tokens special but those of the questions, of which there are `lengths` [B]."""

    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        whole = adapter.layout(inputs, sizes)
        positions = torch.arange(whole.lengths["text"], device=lengths.device)
        words = (positions > 0) & (positions <= lengths[:, None])
        return replace(whole, special={**whole.special, "text": ~words})

    return replace(adapter, layout=layout)
