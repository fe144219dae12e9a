"""A CLIPMapper as a VQA model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipmapper.explain.answers import FromPixels, answer_target, mapper_adapter, preprocessing, record_answer, words
from clipmapper.explain.models.base import Classifier, QuestionBatch, Recorded
from clipmapper.explain.removal import Inputs, predictor
from clipmapper.models.clip_mapper import CLIPMapper
from xai.figures.geometry import Geometry, Size
from xai.metrics.perturbation import Predict
from xai.metrics.protocols import Protocol
from xai.recording.reads import Needs


class MapperModel(Classifier):
    """A CLIPMapper that answers questions, explained from pixels, through CLIP and the mapper.

    Args:
        model: the mapper.

    Raises:
        ValueError: the model is blind to a modality, or writes captions.
    """

    module: FromPixels

    def __init__(self, model: CLIPMapper) -> None:
        if model.config.task != "vqa":
            raise ValueError("the model writes captions; only answers to questions can be compared")
        mapper_adapter(model)
        self.model, self.module = model, FromPixels(model)
        self.answers: Sequence[str] = model.answers
        self.description = f"mapper {model.config.mapper} over {model.config.clip}"

    @property
    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        return self.module.parameter_groups

    def prepare(self, batch: QuestionBatch) -> Inputs:
        clip, weight = self.model.clip, self.model.clip.model.visual.conv1.weight
        pixels = torch.stack([clip.pixels(image) for image in batch.images]).to(weight)
        ids, mask = clip.tokenize(batch.records["question"])
        return Inputs(pixels, *(t.to(weight.device) for t in (ids, mask, batch.scores(self.answers))))

    @torch.no_grad()
    def logits(self, inputs: Inputs) -> Tensor:
        return self.module(inputs.pixels, inputs.ids, inputs.mask)

    def record(self, inputs: Inputs, reads: Needs) -> Recorded:
        recording = record_answer(self.model, inputs.pixels, inputs.ids, inputs.mask, reads, self.module)
        strings = words(self.model.clip, inputs.ids, inputs.mask)
        labels = recording.output.detach().argmax(dim=1)
        return Recorded(recording, answer_target(self.model, recording), labels, strings)

    def predictor(self, inputs: Inputs, recorded: Recorded, protocol: Protocol) -> Predict:
        return predictor(self.model, inputs, recorded.labels, protocol)

    def geometry(self, size: Size) -> Geometry:
        return preprocessing(self.model.clip)(size)
