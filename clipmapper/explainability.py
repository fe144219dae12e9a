"""Explains held-out answers while a model trains: areas, curves and pictures in the logs, beside those of other models."""

import io
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from clipmapper.checkpoints import read_checkpoint
from clipmapper.comparison.curves import draw
from clipmapper.comparison.explained import RANDOM, ask, chosen, explain_all
from clipmapper.comparison.measure import FIGURES, MODALITIES, SHARE, TRUTHS, Measured, measure, truth_of
from clipmapper.comparison.summary import CURVE_RESAMPLES
from clipmapper.config import ExplainConfig
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.vqa import Questions, VQAData
from clipmapper.explain import mapper_adapter, preprocessing
from clipmapper.logs import log_examples, log_table
from clipmapper.model import CLIPMapper
from clipmapper.tasks import VQATask, model_from_checkpoint
from xai.evaluation.metrics import PerturbationAUC
from xai.evaluation.protocols import DIRECTIONS, named
from xai.evaluation.statistics import mean_interval
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


class ExplainabilityCallback(Callback):
    """After every n-th validation explains the same held-out questions; each process takes its share of them.

    Random numbers, modes and gradients are left as they were. Raises ValueError, before training, for names that are not
    known, and for models that cannot be explained.
    """

    def __init__(self, config: ExplainConfig, root: Path | None) -> None:
        """`root` is the data's folder, whose file of truths is used if it has one."""
        self.config, self.root = config, root
        self.methods = (*chosen("all" if config.methods == ["all"] else config.methods), RANDOM)
        self.protocols = {modality: named(config.protocol, modality) for modality in MODALITIES}
        self.validations = 0
        self.references: dict[str, dict[str, float]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Reference models come first, and only once: they do not change."""
        if not isinstance(task, VQATask):
            raise ValueError(f"explain.every is {self.config.every}: only answers are explained while training; set 0")
        mapper_adapter(task.model)  # a model that is blind has none
        for source in self.config.reference_models:
            with _own_random_numbers(task.device):
                reference = load_reference(source).to(task.device)
                self.references[source] = self.explain(trainer, reference).plain(self.methods)
        for source, figures in self.references.items():
            for logger in trainer.loggers if trainer.is_global_zero else []:
                named_figures = {f"explain/reference/{source}/{name}": value for name, value in figures.items()}
                logger.log_metrics(named_figures, trainer.global_step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, VQATask)
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.validations % self.config.every:
            return
        with _own_random_numbers(task.device):
            found = self.explain(trainer, task.model)
            figures = found.plain(self.methods)
            task.log_dict({f"explain/{name}": value for name, value in figures.items()}, rank_zero_only=True)
            curves = {key: metric.per_sample().curves for key, metric in found.areas.items()}
            if trainer.is_global_zero:
                self._log_table(trainer, figures)
                self._log_curves(trainer, curves)
                self._log_pictures(trainer, task.model)

    def explain(self, trainer: pl.Trainer, model: CLIPMapper) -> Found:
        """Batch by batch until the time is up; at least one batch."""
        start, questions, truth = time.monotonic(), held_out(trainer), truth_of(self.root)
        device = model.image_projection.weight.device
        names = [SHARE, *(TRUTHS if truth else ())]
        areas = {
            f"{modality}/{figure}": PerturbationAUC(self.methods, self.protocols[modality]).to(device)
            for modality in MODALITIES
            for figure in FIGURES
        }
        sums = torch.zeros(2, len(names), len(self.methods), dtype=torch.float64, device=device)
        samples = torch.zeros((), device=device)
        rows = self.rows(questions)[trainer.global_rank :: trainer.world_size]
        for first in range(0, len(rows), self.config.batch_size):
            if first and self.config.seconds is not None and time.monotonic() - start > self.config.seconds:
                break
            with suppress(BadImage):
                asked = ask(model, questions, rows[first : first + self.config.batch_size])
                part = measure(model, explain_all(model, asked, self.methods[:-1]), self.config.protocol, truth)
                for key, metric in areas.items():
                    metric.update(torch.from_numpy(part.curves[key]).to(device), asked.ids)
                sums += _sums(part, names).to(device)
                samples += len(asked.ids)
        totals, counts = trainer.strategy.reduce(sums, reduce_op="sum")
        count = int(trainer.strategy.reduce(samples, reduce_op="sum"))
        means = dict(zip(names, totals / counts, strict=True))
        return Found(areas, means, count, time.monotonic() - start)

    def rows(self, questions: Questions) -> list[int]:
        """From all over the held-out questions."""
        count = min(self.config.samples, len(questions))
        return questions.rows[torch.linspace(0, len(questions) - 1, count).long().numpy()].tolist()

    def _log_table(self, trainer: pl.Trainer, own: dict[str, float]) -> None:
        """Methods of the trained model and of the reference models side by side."""
        parts = [(f"{m}/{figure}", name) for m in MODALITIES for figure in FIGURES for name in (*DIRECTIONS, "srg")]
        rows = [
            [model, method, *(figures[f"{key}/{method}/{name}"] for key, name in parts)]
            for model, figures in {"trained": own, **self.references}.items()
            for method in self.methods
        ]
        columns = ["model", "method", *(f"{key}/{name}" for key, name in parts)]
        log_table(trainer.loggers, "explain/methods", columns, rows, trainer.global_step)

    def _log_curves(self, trainer: pl.Trainer, curves: dict[str, Tensor]) -> None:
        bands = {
            key: mean_interval(c.transpose(2, 3).cpu().numpy(), resamples=CURVE_RESAMPLES) for key, c in curves.items()
        }
        picture = _picture(draw(bands, self.methods, self.config.protocol))
        log_examples(trainer.loggers, "explain/curves", [picture], ["perturbation curves"], trainer.global_step)

    def _log_pictures(self, trainer: pl.Trainer, model: CLIPMapper) -> None:
        """Each question with its image under every method."""
        questions, pictures, captions = held_out(trainer), [], []
        for row in self.rows(questions)[: self.config.pictures]:
            with suppress(BadImage):
                explained = explain_all(model, ask(model, questions, [row]), self.methods[:-1])
                shown = [r for name, r in explained.relevances.items() if name not in (RANDOM, *explained.errors)]
                images, record = [load_image(questions.source(row))], explained.asked.records
                caption = f"{record['question'][0]} {record['predicted'][0]} (right: {record['answer'][0]})"
                pictures.append(_picture(compare(shown, images, preprocessing(model.clip), [caption])))
                captions.append(caption)
        if pictures:
            log_examples(trainer.loggers, "explain/pictures", pictures, captions, trainer.global_step)


def load_reference(source: str) -> CLIPMapper:
    """A CLIPMapper that answers questions; raises ValueError for anything else, saying what can be explained."""
    try:
        if Path(source).is_file():
            model = model_from_checkpoint(read_checkpoint(source), source)
        else:
            model = CLIPMapper.from_pretrained(source)
        mapper_adapter(model)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"explain.reference_models: {source!r} is no model to compare with ({error}). It may name a CLIPMapper for "
            "vqa: a checkpoint of train.py, a folder of save_pretrained, a model that ships, or a hub id"
        ) from error
    return model


def held_out(trainer: pl.Trainer) -> Questions:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VQAData) and isinstance(data.val, Questions)
    return data.val


def _own_random_numbers(device: torch.device) -> AbstractContextManager[Any]:
    """What draws random numbers inside leaves training's as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _sums(part: Measured, names: Sequence[str]) -> Tensor:
    """Sums and counts [2, figures, methods] of what is defined."""
    values = torch.stack([torch.from_numpy(part.figures[name]).double() for name in names])
    return torch.stack([values.nansum(dim=-1), values.isfinite().sum(dim=-1).double()])


def _picture(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return Image.open(file)
