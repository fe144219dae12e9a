"""Explains held-out samples while a model trains: areas, curves and pictures in the logs, beside those of other models."""

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from clipmapper.comparison.summary import CURVE_RESAMPLES
from clipmapper.training.logs import log_examples, log_table
from clipmapper.training.study import Study
from xai.metrics.protocols import DIRECTIONS
from xai.metrics.statistics import mean_interval

TRAINED = "trained"  # the name of the model in training beside the reference models


class ExplainabilityCallback(Callback):
    """After every n-th validation explains the same held-out samples; each process takes its share of them.

    Random numbers, modes and gradients are left as they were. Raises ValueError, before training, for names that are not
    known, and for models that cannot be explained. What is particular to a task is in its `study`.
    """

    def __init__(self, study: Study) -> None:
        self.config, self.study = study.config, study
        self.validations = 0
        self.references: dict[str, dict[str, float]] = {}  # figures by name of the model
        self.curves: dict[str, Image.Image] = {}  # of the reference models

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Reference models come first, and only once: they do not change."""
        with _own_random_numbers(task.device):
            self.study.check(trainer, task)
            for name, found in self.study.references(trainer, task):
                self.references[name], curves = found.plain(self.study.methods), found.curves()
                if trainer.is_global_zero:
                    self.curves[name] = self._drawn(curves)
        for name, figures in self.references.items():
            for logger in trainer.loggers if trainer.is_global_zero else []:
                named_figures = {f"explain/reference/{name}/{key}": value for key, value in figures.items()}
                logger.log_metrics(named_figures, trainer.global_step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.validations % self.config.every:
            return
        with _own_random_numbers(task.device):
            found = self.study.explain(trainer, self.study.model(task))
            figures, curves = found.plain(self.study.methods), found.curves()
            task.log_dict({f"explain/{name}": value for name, value in figures.items()}, rank_zero_only=True)
            if trainer.is_global_zero:
                self._log_table(trainer, figures, list(found.areas))
                self._log_curves(trainer, curves)
                self._log_pictures(trainer, task)

    def _log_table(self, trainer: pl.Trainer, own: dict[str, float], keys: list[str]) -> None:
        """Methods of the trained model and of the reference models side by side."""
        parts = [(key, name) for key in keys for name in (*DIRECTIONS, "srg")]
        rows = [
            [model, method, *(figures[f"{key}/{method}/{name}"] for key, name in parts)]
            for model, figures in {TRAINED: own, **self.references}.items()
            for method in self.study.methods
        ]
        columns = ["model", "method", *(f"{key}/{name}" for key, name in parts)]
        log_table(trainer.loggers, "explain/methods", columns, rows, trainer.global_step)

    def _log_curves(self, trainer: pl.Trainer, own: Mapping[str, Tensor]) -> None:
        pictures = {TRAINED: self._drawn(own), **self.curves}
        captions = [f"perturbation curves: {model}" for model in pictures]
        log_examples(trainer.loggers, "explain/curves", list(pictures.values()), captions, trainer.global_step)

    def _drawn(self, curves: Mapping[str, Tensor]) -> Image.Image:
        bands = {key: mean_interval(c.transpose(2, 3).numpy(), resamples=CURVE_RESAMPLES) for key, c in curves.items()}
        return _picture(self.study.draw(bands))

    def _log_pictures(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Each sample with its image under every method."""
        found = [(_picture(figure), caption) for figure, caption in self.study.pictures(trainer, task)]
        if found:
            pictures, captions = zip(*found, strict=True)
            log_examples(trainer.loggers, "explain/pictures", [*pictures], [*captions], trainer.global_step)


def _own_random_numbers(device: torch.device) -> AbstractContextManager[Any]:
    """What draws random numbers inside leaves training's as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _picture(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return Image.open(file)
