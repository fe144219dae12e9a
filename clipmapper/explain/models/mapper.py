"""A CLIPMapper as a VQA model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipmapper.explain.answers import FromPixels, answer_target, mapper_adapter, record_answer, words
from clipmapper.explain.models.base import QuestionBatch, Recorded, VQAModel
from clipmapper.explain.removal import Inputs, predictor
from clipmapper.models.clip_mapper import CLIPMapper
from xai.explain import Lrp
from xai.metrics.perturbation import Predict
from xai.metrics.protocols import Protocol


class MapperModel(VQAModel):
    """Explained from pixels, through CLIP and the mapper.

    Raises ValueError for a model that is blind to a modality, or writes captions.
    """

    def __init__(self, model: CLIPMapper, whole: FromPixels | None = None) -> None:
        """`whole` is FromPixels(model), if the caller has one."""
        if model.config.task != "vqa":
            raise ValueError("the model writes captions; only answers to questions can be compared")
        mapper_adapter(model)
        self.module, self.whole = model, whole or FromPixels(model)
        self.answers: Sequence[str] = model.answers
        self.model = model

    def prepare(self, batch: QuestionBatch) -> Inputs:
        clip, weight = self.model.clip, self.model.clip.model.visual.conv1.weight
        pixels = torch.stack([clip.pixels(image) for image in batch.images]).to(weight)
        ids, mask = clip.tokenize(batch.records["question"])
        return Inputs(pixels, *(t.to(weight.device) for t in (ids, mask, batch.scores)))

    def record(self, inputs: Inputs, lrp: Lrp) -> Recorded:
        recording = record_answer(self.model, inputs.pixels, inputs.ids, inputs.mask, lrp, self.whole)
        strings = words(self.model.clip, inputs.ids, inputs.mask)
        return Recorded(
            recording, answer_target(self.model, recording), recording.output.detach().argmax(dim=1), strings
        )

    def predictor(self, inputs: Inputs, labels: Tensor, protocol: Protocol) -> Predict:
        return predictor(self.model, inputs, labels, protocol)


def vqa_model(model: CLIPMapper | VQAModel) -> VQAModel:
    return model if isinstance(model, VQAModel) else MapperModel(model)
