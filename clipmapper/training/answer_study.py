"""Held-out questions explained and measured: what explanations in training log of answers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure

from clipmapper.comparison.explained import RANDOM, ask, explain_all
from clipmapper.comparison.measure import FIGURES, MODALITIES, SHARE, TRUTHS, measure, truth_of
from clipmapper.config import ExplainConfig, ReferenceConfig
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.vqa import Questions, VQAData
from clipmapper.explain.answers import preprocessing
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.load import load_reference
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.training.study import Found, Part, Study
from clipmapper.training.tasks import VQATask
from xai.figures.render import compare
from xai.metrics.protocols import named


class AnswerStudy(Study[MapperModel]):
    """All that explanations in validation know of answers to questions. Raises ValueError for an unknown method."""

    def __init__(self, config: ExplainConfig, root: Path | None) -> None:
        """`root` is the data's folder, whose file of truths is used if it has one."""
        super().__init__(config)
        self.root = root
        self.protocols = {f"{m}/{figure}": named(config.protocol, m) for m in MODALITIES for figure in FIGURES}

    def model(self, task: pl.LightningModule) -> MapperModel:
        if not isinstance(task, VQATask):
            raise ValueError("these explanations are of answers to questions, which the task in training does not give")
        return MapperModel(task.model)

    def load(self, reference: ReferenceConfig, trainer: pl.Trainer, task: pl.LightningModule) -> VQAModel:
        common = common_answers(data_of(trainer), self.model(task).answers)
        return load_reference(reference, common).to(task.device)

    def explain(self, trainer: pl.Trainer, model: VQAModel) -> Found:
        questions, truth = held_out(trainer), truth_of(self.root)

        def measured(rows: Sequence[int]) -> Part:
            asked = ask(model, questions, rows)
            part = measure(model, explain_all(model, asked, self.methods[:-1]), self.config.protocol, truth)
            curves, figures = ({k: torch.from_numpy(v) for k, v in d.items()} for d in (part.curves, part.figures))
            return Part(asked.ids, curves, figures)

        names = [SHARE, *(TRUTHS if truth else ())]
        return self.collect(trainer, model.device, self.protocols, names, self.rows(questions), measured)

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
