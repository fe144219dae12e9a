"""Perturbation figures as a torchmetrics metric."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from xai.metrics.protocols import DIRECTIONS, Protocol, area, srg


class PerSample(NamedTuple):
    """Figures of each sample, for `statistics`; directions in the order of `protocols.DIRECTIONS`. NaN where undefined."""

    samples: Tensor  # ids [samples], ascending
    curves: Tensor  # [methods, directions, samples, steps]
    areas: Tensor  # [methods, directions, samples]
    srg: Tensor  # negative minus positive area [methods, samples]


class PerturbationAUC(Metric):
    """Collects curves of one figure under one protocol, over batches and processes; a sample seen twice counts once."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, methods: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.methods, self.protocol = tuple(methods), protocol
        # One flat list of numbers, because a process without samples takes part in the sync with an empty one.
        self.set_dtype(torch.float64)  # holds ids exactly
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, curves: Tensor, samples: Tensor) -> None:
        """Curves [methods, directions, B, steps] as `perturb` gives them, and the samples' ids [B]."""
        expected = (len(self.methods), len(DIRECTIONS), len(samples), len(self.protocol.shares))
        if curves.shape != expected:
            raise ValueError(
                f"expected curves [methods, directions, B, steps] {list(expected)}, got {list(curves.shape)}"
            )
        by_sample = curves.detach().movedim(2, 0).flatten(1).double()
        self.rows.append(torch.cat([samples[:, None].to(by_sample), by_sample], dim=1).flatten())

    def compute(self) -> dict[str, Tensor]:
        """For each method means over its defined samples, and how many are `undefined`: "genatt/positive" and so on."""
        found = self._joined()
        figures: dict[str, Tensor] = {
            **{direction: found.areas[:, i].nanmean(dim=1) for i, direction in enumerate(DIRECTIONS)},
            "srg": found.srg.nanmean(dim=1),
            "undefined": found.srg.isnan().sum(dim=1),
        }
        return {f"{method}/{name}": by[i] for name, by in figures.items() for i, method in enumerate(self.methods)}

    def per_sample(self) -> PerSample:
        """The figures of all processes' samples; every process must call it."""
        with self.sync_context():
            return self._joined()

    def _joined(self) -> PerSample:
        steps = len(self.protocol.shares)
        parts = self.rows if isinstance(self.rows, list) else [self.rows]  # joined by a sync
        flat = torch.cat([torch.zeros(0, dtype=torch.float64, device=self.device), *parts])
        rows = flat.reshape(-1, 1 + len(self.methods) * len(DIRECTIONS) * steps)
        ids, order = rows[:, 0].sort(stable=True)
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        by_sample = rows[order[first], 1:].reshape(-1, len(self.methods), len(DIRECTIONS), steps)
        curves = by_sample.movedim(0, 2)
        areas = area(curves, self.protocol.shares)
        return PerSample(ids[first].long(), curves, areas, srg(areas))
