"""Explanations in validation, whatever the task: held-out samples measured batch by batch, each process its share."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.comparison.curves import draw
from clipmapper.comparison.explained import RANDOM, chosen
from clipmapper.config import ExplainConfig, ReferenceConfig
from clipmapper.data.images import BadImage
from xai.metrics.metrics import PerturbationAUC
from xai.metrics.protocols import Protocol
from xai.metrics.statistics import Interval

Model = TypeVar("Model")


@dataclass(frozen=True)
class Part:
    """Figures of a batch; NaN where undefined."""

    ids: Tensor  # [B]
    curves: Mapping[str, Tensor]  # [methods, directions, B, steps] by "modality/figure"
    figures: Mapping[str, Tensor]  # others, [methods, samples]; those that no sample has may be missing


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


class Study(ABC, Generic[Model]):
    """All that explanations in validation know of a task. Raises ValueError for an unknown method."""

    def __init__(self, config: ExplainConfig) -> None:
        self.config = config
        self.methods = (*chosen("all" if config.methods == ["all"] else config.methods), RANDOM)

    @abstractmethod
    def model(self, task: pl.LightningModule) -> Model:
        """What is trained; raises ValueError if it cannot be explained."""

    def check(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Raises ValueError, before training, where there is nothing to explain."""
        self.model(task)

    @abstractmethod
    def load(self, reference: ReferenceConfig, trainer: pl.Trainer, task: pl.LightningModule) -> Any:
        """A reference model on the task's device; raises ValueError for one that cannot be had."""

    @abstractmethod
    def explain(self, trainer: pl.Trainer, model: Any) -> Found:
        """The figures of a model, by `collect`."""

    @abstractmethod
    def pictures(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[tuple[Figure, str]]:
        """Some explained samples, each picture with what is said below it."""

    def draw(self, bands: Mapping[str, Interval]) -> Figure:
        """The curves' means over samples, by "modality/figure"."""
        return draw(bands, self.methods, self.config.protocol)

    def references(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[tuple[str, Found]]:
        """By its name each reference model's figures. Raises ValueError for one that cannot be had or explained."""
        for reference in self.config.references:
            model = self.load(reference, trainer, task)
            try:
                yield reference.label, self.explain(trainer, model)
            except Exception as error:
                raise ValueError(
                    f"explain.reference_models: {reference.label!r} cannot be explained on these samples "
                    f"({type(error).__name__}: {error}). Leave it out, or mend what is missing"
                ) from error

    def collect(
        self,
        trainer: pl.Trainer,
        device: torch.device,
        protocols: Mapping[str, Protocol],
        names: Sequence[str],
        rows: Sequence[int],
        measure: Callable[[Sequence[int]], Part | None],
    ) -> Found:
        """This process's share of the rows, batch by batch until the time is up; at least one batch.

        `protocols` by curve, `names` of the other figures; `measure` gives None for rows of which nothing can be measured.
        """
        start = time.monotonic()
        areas = {key: PerturbationAUC(self.methods, protocol).to(device) for key, protocol in protocols.items()}
        sums = torch.zeros(2, len(names), len(self.methods), dtype=torch.float64, device=device)
        samples = torch.zeros((), device=device)
        own = rows[trainer.global_rank :: trainer.world_size]
        for first in range(0, len(own), self.config.batch_size):
            if first and self.config.seconds is not None and time.monotonic() - start > self.config.seconds:
                break
            with suppress(BadImage):
                part = measure(own[first : first + self.config.batch_size])
                if part is None:
                    continue
                for key, metric in areas.items():
                    metric.update(part.curves[key].to(device), part.ids.to(device))
                sums += _sums(part, names, len(self.methods)).to(device)
                samples += len(part.ids)
        totals, counts = trainer.strategy.reduce(sums, reduce_op="sum")
        count = int(trainer.strategy.reduce(samples, reduce_op="sum"))
        means = dict(zip(names, totals / counts, strict=True))
        return Found(areas, means, count, time.monotonic() - start)


def _sums(part: Part, names: Sequence[str], methods: int) -> Tensor:
    """Sums and counts [2, figures, methods] of what is defined."""
    nothing = torch.zeros(methods, 0)
    values = [part.figures.get(name, nothing).double() for name in names]
    return torch.stack(
        [torch.stack([v.nansum(dim=-1) for v in values]), torch.stack([v.isfinite().sum(dim=-1) for v in values])]
    )
