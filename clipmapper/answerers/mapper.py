"""A CLIPMapper as an answerer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipmapper.answerers.base import Answerer, Posed, Recorded
from clipmapper.answerers.perturbation import Inputs, predictor
from clipmapper.explain.answers import FromPixels, answer_target, mapper_adapter, record_answer, words
from clipmapper.models.clip_mapper import CLIPMapper
from xai.explain import Lrp
from xai.metrics.perturbation import Predict
from xai.metrics.protocols import Protocol


class MapperAnswerer(Answerer):
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

    def prepare(self, posed: Posed) -> Inputs:
        clip, weight = self.model.clip, self.model.clip.model.visual.conv1.weight
        pixels = torch.stack([clip.pixels(image) for image in posed.images]).to(weight)
        ids, mask = clip.tokenize(posed.records["question"])
        return Inputs(pixels, *(t.to(weight.device) for t in (ids, mask, posed.scores)))

    def record(self, inputs: Inputs, lrp: Lrp) -> Recorded:
        recording = record_answer(self.model, inputs.pixels, inputs.ids, inputs.mask, lrp, self.whole)
        strings = words(self.model.clip, inputs.ids, inputs.mask)
        return Recorded(
            recording, answer_target(self.model, recording), recording.output.detach().argmax(dim=1), strings
        )

    def predictor(self, inputs: Inputs, labels: Tensor, protocol: Protocol) -> Predict:
        return predictor(self.model, inputs, labels, protocol)


def answerer(model: CLIPMapper | Answerer) -> Answerer:
    return model if isinstance(model, Answerer) else MapperAnswerer(model)
