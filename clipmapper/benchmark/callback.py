"""Explains held-out samples while a model trains: metrics, curves and pictures in the logs, beside those of other models."""

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback

from clipmapper.benchmark import plots
from clipmapper.benchmark.curves import Point, of_values
from clipmapper.benchmark.measure import RANDOM, BatchResult, explain_batch, joined, measure
from clipmapper.benchmark.run import method_names, plan
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.store import Results, long_table
from clipmapper.benchmark.summary import numbers
from clipmapper.benchmark.task import Task
from clipmapper.benchmark.tasks.held_out import held_out_task
from clipmapper.config import ExplainConfig, ModelSource
from clipmapper.images import BadImage
from clipmapper.logs import log_curves, log_examples, log_table
from clipmapper.processes import World, all_gathered

TRAINED = "trained"  # the name of the model in training beside the reference models


@dataclass(frozen=True, eq=False)
class Explanations:
    """One model's results over the samples of all processes.

    Attributes:
        task: the model on the samples.
        results: the values of each sample; None where no sample could be measured.
        seconds: that it took.
        curves: the points of the curves.
    """

    task: Task
    results: Results | None
    seconds: float
    curves: list[Point]

    def metrics(self) -> dict[str, float]:
        """Returns means over samples by "metric/method", how many samples there are, and the seconds."""
        counts = {"samples": 0.0 if self.results is None else float(len(self.results.samples["sample"]))}
        if self.results is None:
            return {**counts, "seconds": self.seconds}
        by_metric = {
            key: torch.from_numpy(v).double().nanmean(dim=1) for key, v in numbers(self.results, self.task).items()
        }
        means = {
            f"{key}/{row}": float(v)
            for key, by in by_metric.items()
            for row, v in zip(self.results.rows, by, strict=True)
        }
        return {**means, **counts, "seconds": self.seconds}


class ExplainabilityCallback(Callback):
    """After every n-th validation explains the same held-out samples; each process takes its share of them.

    Random numbers, modes and gradients are left as they were.

    Args:
        config: what is explained, how often and by which methods.
        root: folder of the data, whose ground truth is used if it has one; None for a hub data set.

    Raises:
        ValueError: an unknown method, now; a model that cannot be explained, before training.

    Example:
        >>> from clipmapper.benchmark.callback import ExplainabilityCallback
        >>> from clipmapper.config import ExplainConfig
        >>> callback = ExplainabilityCallback(ExplainConfig(every=1, methods=["wra"]), root=None)
        >>> callback.methods
        ('wra',)
    """

    def __init__(self, config: ExplainConfig, root: Path | None) -> None:
        self.config, self.root = config, root
        self.benchmark = BenchmarkConfig(
            methods=",".join(config.methods),
            protocol=config.protocol,
            samples=config.samples,
            batch_size=config.batch_size,
            cost_samples=0,
            gallery=0,
        )
        self.methods = method_names(self.benchmark)
        self.validations = 0
        self.task: Task | None = None  # of the model in training; its samples stay the same
        self.references: dict[str, dict[str, float]] = {}  # metrics by name of the model
        self.curves: dict[str, Image.Image] = {}  # of the reference models

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Explains the reference models, which do not change, once."""
        with _own_random_numbers(module.device):
            self._task(trainer, module)  # raises before training what it would raise after
            for reference in self.config.references:
                explanations = self._reference(trainer, module, reference)
                self.references[reference.label] = explanations.metrics()
                if trainer.is_global_zero:
                    if picture := self._picture_of(explanations):
                        self.curves[reference.label] = picture
                    name = f"explain/reference/{reference.label}"
                    log_curves(trainer.loggers, f"{name}/curves", explanations.curves, trainer.global_step)
                    self._log_pictures(trainer, explanations.task, f"{name}/pictures")
        for name, metrics in self.references.items():
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.log_metrics(
                    {f"explain/reference/{name}/{key}": v for key, v in metrics.items()}, trainer.global_step
                )

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.validations % self.config.every:
            return
        with _own_random_numbers(module.device):
            task = self._task(trainer, module)
            explanations = self._explain(task, trainer)
            metrics = explanations.metrics()
            module.log_dict({f"explain/{name}": value for name, value in metrics.items()}, rank_zero_only=True)
            if trainer.is_global_zero:
                self._log_table(trainer, metrics)
                self._log_curves(trainer, explanations)
                self._log_pictures(trainer, task, "explain/pictures")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.task = None

    def _task(self, trainer: pl.Trainer, module: pl.LightningModule) -> Task:
        if self.task is None:
            self.task = held_out_task(trainer, module, self.benchmark, self.root)
        return self.task

    def _reference(self, trainer: pl.Trainer, module: pl.LightningModule, reference: ModelSource) -> Explanations:
        try:
            return self._explain(held_out_task(trainer, module, self.benchmark, self.root, reference), trainer)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(
                f"explain.reference_models: {reference.label!r} cannot be explained on these samples "
                f"({type(error).__name__}: {error}). Leave it out, or mend what is missing"
            ) from error

    def _explain(self, task: Task, trainer: pl.Trainer) -> Explanations:
        """Measures this process's share, batch by batch until the time is up, at least one batch; gathers all shares."""
        start, parts = time.monotonic(), list[BatchResult]()
        batches = World(trainer.global_rank, trainer.world_size).share(plan(len(task), self.config.batch_size, None))
        for rows in batches:
            if parts and self.config.seconds is not None and time.monotonic() - start > self.config.seconds:
                break
            with suppress(BadImage):
                parts.append(measure(task, rows, self.methods, self.benchmark))
        return self._explanations(task, [part for share in all_gathered(parts) for part in share], start)

    def _explanations(self, task: Task, parts: Sequence[BatchResult], start: float) -> Explanations:
        if not parts:
            return Explanations(task, None, time.monotonic() - start, [])
        whole, rows = joined(parts), (*task.names(self.methods), RANDOM)
        results = Results(rows, {"sample": whole.ids, **whole.samples}, whole.values, whole.errors)
        steps = {name: protocol.shares for name, protocol in task.protocols().items()}
        return Explanations(task, results, time.monotonic() - start, of_values(long_table(whole, rows, steps)))

    def _log_table(self, trainer: pl.Trainer, own: Mapping[str, float]) -> None:
        """Logs methods of the trained model and of the reference models side by side."""
        methods = [*self.methods, RANDOM]
        metrics = list(dict.fromkeys(key.rpartition("/")[0] for key in own if key.rpartition("/")[2] in methods))
        rows = [
            [model, method, *(values.get(f"{metric}/{method}", float("nan")) for metric in metrics)]
            for model, values in {TRAINED: own, **self.references}.items()
            for method in methods
        ]
        log_table(trainer.loggers, "explain/methods", ["model", "method", *metrics], rows, trainer.global_step)

    def _log_curves(self, trainer: pl.Trainer, explanations: Explanations) -> None:
        picture = self._picture_of(explanations)
        pictures = {**({TRAINED: picture} if picture else {}), **self.curves}
        captions = [f"removal curves: {model}" for model in pictures]
        log_examples(trainer.loggers, "explain/curves", list(pictures.values()), captions, trainer.global_step)
        log_curves(trainer.loggers, "explain/curves", explanations.curves, trainer.global_step)

    def _picture_of(self, explanations: Explanations) -> Image.Image | None:
        if explanations.results is None:
            return None
        figure = plots.curves(explanations.task, explanations.results)
        return None if figure is None else _picture(figure)

    def _log_pictures(self, trainer: pl.Trainer, task: Task, name: str) -> None:
        """Logs some samples with their image under every method."""
        if not self.config.pictures:
            return
        with suppress(BadImage):
            batch = task.batch(range(min(self.config.pictures, len(task))))
            explained = explain_batch(task, batch, self.methods)
            pictures = [(_picture(figure), caption) for figure, caption in task.pictures(batch, explained)]
            if pictures:
                images, captions = map(list, zip(*pictures, strict=True))
                log_examples(trainer.loggers, name, images, captions, trainer.global_step)


def _own_random_numbers(device: torch.device) -> AbstractContextManager[Any]:
    """Leaves training's random numbers as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _picture(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return Image.open(file)
