"""Held-out questions explained and measured batch by batch, each process its share: what explanations in training log."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.answerers.base import Answerer
from clipmapper.answerers.load import load_reference
from clipmapper.answerers.mapper import MapperAnswerer
from clipmapper.comparison.explained import RANDOM, ask, chosen, explain_all
from clipmapper.comparison.measure import FIGURES, MODALITIES, SHARE, TRUTHS, Measured, measure, truth_of
from clipmapper.config import ExplainConfig
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.vqa import Questions, VQAData
from clipmapper.explain import preprocessing
from clipmapper.tasks import VQATask
from xai.evaluation.metrics import PerturbationAUC
from xai.evaluation.protocols import named
from xai.render import compare


@dataclass(frozen=True)
class Found:
    """One model's figures over the samples of all processes."""

    areas: dict[str, PerturbationAUC]  # by "modality/figure"
    figures: dict[str, Tensor]  # means [methods] of the other figures
    samples: int
    seconds: float

    def plain(self, methods: Sequence[str]) -> dict[str, float]:
        """By name: "image/accuracy/wra/srg", "truth/image_mass/wra" and so on."""
        areas = {f"{key}/{name}": float(v) for key, m in self.areas.items() for name, v in m.compute().items()}
        others = {
            f"{name}/{m}": float(v) for name, by in self.figures.items() for m, v in zip(methods, by, strict=True)
        }
        return {**areas, **others, "samples": float(self.samples), "seconds": self.seconds}

    def curves(self) -> dict[str, Tensor]:
        """Of each sample, by "modality/figure": [methods, directions, samples, steps]; every process must call it."""
        return {key: metric.per_sample().curves.cpu() for key, metric in self.areas.items()}


class AnswerStudy:
    """All that explanations in validation know of answers to questions. Raises ValueError for an unknown method."""

    def __init__(self, config: ExplainConfig, root: Path | None) -> None:
        """`root` is the data's folder, whose file of truths is used if it has one."""
        self.config, self.root = config, root
        self.methods = (*chosen("all" if config.methods == ["all"] else config.methods), RANDOM)
        self.protocols = {modality: named(config.protocol, modality) for modality in MODALITIES}

    def model(self, task: pl.LightningModule) -> MapperAnswerer:
        """What is trained; raises ValueError if it cannot be explained."""
        if not isinstance(task, VQATask):
            raise ValueError(f"explain.every is {self.config.every}: only answers are explained while training; set 0")
        return MapperAnswerer(task.model)

    def references(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[tuple[str, Found]]:
        """By its name each reference model's figures. Raises ValueError for one that cannot be had or explained."""
        common = common_answers(data_of(trainer), self.model(task).answers) if self.config.references else []
        for reference in self.config.references:
            model = load_reference(reference, common).to(task.device)
            try:
                yield reference.label, self.explain(trainer, model)
            except Exception as error:
                raise ValueError(
                    f"explain.reference_models: {reference.label!r} cannot be explained on these questions "
                    f"({type(error).__name__}: {error}). Leave it out, or mend what is missing"
                ) from error

    def explain(self, trainer: pl.Trainer, model: Answerer) -> Found:
        """Batch by batch until the time is up; at least one batch."""
        start, questions, truth = time.monotonic(), held_out(trainer), truth_of(self.root)
        names = [SHARE, *(TRUTHS if truth else ())]
        areas = {
            f"{modality}/{figure}": PerturbationAUC(self.methods, self.protocols[modality]).to(model.device)
            for modality in MODALITIES
            for figure in FIGURES
        }
        sums = torch.zeros(2, len(names), len(self.methods), dtype=torch.float64, device=model.device)
        samples = torch.zeros((), device=model.device)
        rows = self.rows(questions)[trainer.global_rank :: trainer.world_size]
        for first in range(0, len(rows), self.config.batch_size):
            if first and self.config.seconds is not None and time.monotonic() - start > self.config.seconds:
                break
            with suppress(BadImage):
                asked = ask(model, questions, rows[first : first + self.config.batch_size])
                part = measure(model, explain_all(model, asked, self.methods[:-1]), self.config.protocol, truth)
                for key, metric in areas.items():
                    metric.update(torch.from_numpy(part.curves[key]).to(model.device), asked.ids)
                sums += _sums(part, names).to(model.device)
                samples += len(asked.ids)
        totals, counts = trainer.strategy.reduce(sums, reduce_op="sum")
        count = int(trainer.strategy.reduce(samples, reduce_op="sum"))
        means = dict(zip(names, totals / counts, strict=True))
        return Found(areas, means, count, time.monotonic() - start)

    def rows(self, questions: Questions) -> list[int]:
        """From all over the held-out questions."""
        count = min(self.config.samples, len(questions))
        return questions.rows[torch.linspace(0, len(questions) - 1, count).long().numpy()].tolist()

    def pictures(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[tuple[Figure, str]]:
        """Some of the questions with their image under every method, and what is answered."""
        questions, model = held_out(trainer), self.model(task)
        for row in self.rows(questions)[: self.config.pictures]:
            with suppress(BadImage):
                explained = explain_all(model, ask(model, questions, [row]), self.methods[:-1])
                shown = [r for name, r in explained.relevances.items() if name not in (RANDOM, *explained.errors)]
                images, record = [load_image(questions.source(row))], explained.asked.records
                caption = f"{record['question'][0]} {record['predicted'][0]} (right: {record['answer'][0]})"
                yield compare(shown, images, preprocessing(model.model.clip), [caption]), caption


def common_answers(data: VQAData, known: Sequence[str]) -> list[str]:
    """The known answers, those of most training questions first."""
    counts = Counter(data.train.records["answer"])
    return sorted(known, key=lambda answer: -counts[answer])


def held_out(trainer: pl.Trainer) -> Questions:
    questions = data_of(trainer).val
    assert isinstance(questions, Questions)
    return questions


def data_of(trainer: pl.Trainer) -> VQAData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VQAData)
    return data


def _sums(part: Measured, names: Sequence[str]) -> Tensor:
    """Sums and counts [2, figures, methods] of what is defined."""
    values = torch.stack([torch.from_numpy(part.figures[name]).double() for name in names])
    return torch.stack([values.nansum(dim=-1), values.isfinite().sum(dim=-1).double()])
