"""The task of a model in training: its held-out questions or images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Task
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.benchmark.tasks.captions import CaptionsTask
from clipmapper.config import ModelSource
from clipmapper.data.captions import CaptionData
from clipmapper.data.vqa import Questions, VQAData
from clipmapper.explain.captions import require_captioner
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.captioner import Captioner
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.clip_mapper import CLIPMapper


def held_out_task(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    config: BenchmarkConfig,
    root: Path | None,
    reference: ModelSource | None = None,
) -> Task:
    """Returns the benchmark of the model in training, or of a reference model, on the same held-out samples.

    Raises:
        ValueError: the model, or the reference, cannot be explained on them.
    """
    data, network = trainer.datamodule, getattr(module, "model", None)  # type: ignore[attr-defined]
    if isinstance(network, CLIPMapper) and isinstance(data, VQAData):
        model: VQAModel = MapperModel(network)
        if reference is not None:
            model = _answering(reference, common_answers(data, model.answers)).to(module.device)
        questions = data.val
        assert isinstance(questions, Questions)
        return AnswersTask(model, questions, spread(questions, config.samples), config, root)
    if isinstance(network, CLIPMapper) and isinstance(data, CaptionData):
        captioner = network if reference is None else _captioner(reference).to(module.device)
        return CaptionsTask(captioner, data.val, config, root, network.clip, weighted=False)
    raise ValueError(f"explanations in validation know no task {type(module).__name__}")


def spread(questions: Questions, count: int | None) -> list[int]:
    """Returns rows from all over the usable ones."""
    count = min(count or len(questions), len(questions))
    return questions.rows[torch.linspace(0, len(questions) - 1, count).long().numpy()].tolist()


def common_answers(data: VQAData, answers: Sequence[str]) -> list[str]:
    """Returns the answers, those of most training questions first."""
    counts = Counter(data.train.records["answer"])
    return sorted(answers, key=lambda answer: -counts[answer])


def _answering(reference: ModelSource, common: Sequence[str]) -> VQAModel:
    model = load_model(reference, common)
    if not isinstance(model, VQAModel):
        raise ValueError(
            f"explain.reference_models: {reference.label!r} writes captions; beside answers name a model that answers"
        )
    return model


def _captioner(reference: ModelSource) -> Captioner | CLIPMapper:
    model = load_model(reference)
    if isinstance(model, Captioner):
        return model
    if not isinstance(model, CLIPMapper):
        raise ValueError(
            f"explain.reference_models: {reference.label!r} answers questions; beside a captioner name other captioners"
        )
    require_captioner(model)
    return model
