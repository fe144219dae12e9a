"""The interface of a model that writes captions, and a CLIPMapper as one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipmapper.explain.answers import FromPixels, preprocessing
from clipmapper.explain.caption_removal import Scores, predictor
from clipmapper.explain.captions import caption_relevance, pieces_of, record_steps, require_captioner, steps_of, written
from clipmapper.explain.models.base import Explainable
from clipmapper.models.clip_mapper import CLIPMapper
from xai import Relevance, Target
from xai.figures.geometry import Geometry, Size
from xai.metrics.perturbation import Predict
from xai.metrics.protocols import Protocol
from xai.recording.reads import Needs
from xai.recording.recording import Recording
from xai.results.captions import CaptionRelevance
from xai.results.words import merge_pieces

Tokens = Sequence[Sequence[int]]  # of each caption, those that are (pieces of) words


@dataclass(frozen=True, eq=False)
class CaptionBatch:
    """Images as a model takes them, and the tokens of a caption of each."""

    inputs: Any
    tokens: Tokens


@dataclass(frozen=True, eq=False)
class RecordedCaptions:
    """One pass with a row for each token, caption by caption, and the target of each row."""

    recording: Recording
    target: Target


class Captioner(Explainable, ABC):
    """A model that writes captions of images."""

    batch_size = 8

    @abstractmethod
    def prepare(self, images: Sequence[Image.Image]) -> Any:
        """Returns inputs on the model's device."""

    @abstractmethod
    def write(self, inputs: Any) -> list[list[int]]:
        """Returns the tokens of greedy captions; none where the model says nothing."""

    @abstractmethod
    def text(self, tokens: Sequence[int]) -> str:
        """Returns a caption as text."""

    @abstractmethod
    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Returns the pieces of words that a caption's tokens stand for."""

    def words(self, tokens: Tokens) -> list[list[str]]:
        """Returns the words of each caption."""
        return [[word for word, _ in merge_pieces(self.pieces(caption))] for caption in tokens]

    @abstractmethod
    def record(self, captions: CaptionBatch, reads: Needs) -> RecordedCaptions:
        """Records one pass over captions."""

    @abstractmethod
    def relevance(self, captions: CaptionBatch, relevance: Relevance) -> CaptionRelevance:
        """Returns the relevance of the recording's rows as that of captions."""

    @abstractmethod
    def predictor(
        self,
        captions: CaptionBatch,
        recorded: RecordedCaptions,
        protocol: Protocol,
        scorer: Scores,
        images: Sequence[int],
    ) -> Predict:
        """Returns the metrics of captions without some patches, as `clipmapper.explain.caption_removal.predictor`."""


class MapperCaptioner(Captioner):
    """A CLIPMapper that writes captions, explained from pixels.

    Raises:
        ValueError: the model answers questions.
    """

    module: FromPixels

    def __init__(self, model: CLIPMapper) -> None:
        require_captioner(model)
        self.model, self.module = model, FromPixels(model)
        self.description = f"mapper {model.config.mapper} over {model.config.clip}"

    @property
    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        return self.module.parameter_groups

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.model.clip.pixels(image) for image in images])
        return pixels.to(self.model.clip.model.visual.conv1.weight)

    def write(self, inputs: Tensor) -> list[list[int]]:
        return written(self.model, inputs)

    def text(self, tokens: Sequence[int]) -> str:
        return self.model.text_of(tokens)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        return pieces_of(self.model, [tokens])[0]

    def record(self, captions: CaptionBatch, reads: Needs) -> RecordedCaptions:
        steps = steps_of(self.model, captions.tokens)
        return RecordedCaptions(record_steps(self.model, captions.inputs, steps, reads, self.module), steps.target)

    def relevance(self, captions: CaptionBatch, relevance: Relevance) -> CaptionRelevance:
        return caption_relevance(self.model, steps_of(self.model, captions.tokens), relevance)

    def predictor(
        self,
        captions: CaptionBatch,
        recorded: RecordedCaptions,
        protocol: Protocol,
        scorer: Scores,
        images: Sequence[int],
    ) -> Predict:
        return predictor(self.model, captions.inputs, captions.tokens, scorer, images)

    def geometry(self, size: Size) -> Geometry:
        return preprocessing(self.model.clip)(size)
