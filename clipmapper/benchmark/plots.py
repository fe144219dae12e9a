"""Curves as small multiples: one panel a method, what removing the most and the least relevant tokens does."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.store import Results
from clipmapper.benchmark.summary import GAIN, INVERTED, bands, numbers
from clipmapper.benchmark.task import Task
from xai.files import replacing
from xai.metrics.protocols import DIRECTIONS
from xai.metrics.statistics import Interval

ACROSS = 6  # panels in a row
COLOURS = {"positive": "#c0392b", "negative": "#2471a3", RANDOM: "#8a8a8a"}
LABELS = {"positive": "most relevant removed first", "negative": "least relevant removed first", RANDOM: "random maps"}


def curves(task: Task, results: Results) -> Figure | None:
    """Draws for each gain that orders the methods a block of panels, best method first; None without removal."""
    intervals, gains = bands(results), numbers(results, task)
    stems = [key.removesuffix(f"/{GAIN}") for key in task.order if key in gains and key.endswith(GAIN)]
    methods = [
        name for name in results.rows if name != RANDOM and not name.endswith(INVERTED) and name not in results.errors
    ]
    if not stems or not methods:
        return None
    across = min(ACROSS, len(methods))
    rows = ceil(len(methods) / across)
    figure = Figure(figsize=(2.3 * across + 0.6, (1.9 * rows + 0.7) * len(stems) + 0.3), layout="constrained")
    blocks = figure.subfigures(len(stems), 1, squeeze=False)[:, 0]
    for stem, block in zip(stems, blocks, strict=True):
        _block(block, (rows, across), task, stem, intervals, results.rows, methods, gains[f"{stem}/{GAIN}"])
    handles, names = blocks[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _block(
    block: Any,
    shape: tuple[int, int],
    task: Task,
    stem: str,
    intervals: Mapping[str, Interval],
    rows: tuple[str, ...],
    methods: list[str],
    gains: np.ndarray,
) -> None:
    """Draws all methods by one gain."""
    share = any(column.key == f"{stem}/{GAIN}" and column.share for column in task.columns())
    means = {name: np.nanmean(gains[rows.index(name)]) for name in methods}
    block.suptitle(f"{stem.replace('/', ', ').replace('_', '-')}: the wider the gap, the better", fontsize=10)
    panels = block.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(
        panels, sorted(methods, key=lambda name: -np.nan_to_num(means[name], nan=-np.inf)), strict=False
    ):
        _panel(axes, task.protocols()[stem.partition("/")[0]].shares, intervals, stem, rows, name)
        axes.set_title(f"{name}  {100 * means[name]:.1f}" if share else f"{name}  {means[name]:.2f}", fontsize=8)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    block.supxlabel("share removed", fontsize=8)
    block.supylabel(stem.rpartition("/")[2].replace("_", "-"), fontsize=8)


def _panel(
    axes: Axes,
    shares: tuple[float, ...],
    intervals: Mapping[str, Interval],
    stem: str,
    rows: tuple[str, ...],
    name: str,
) -> None:
    """Draws one method's two curves with their bands, and random maps."""
    random = intervals[f"{stem}/{DIRECTIONS[0]}"].mean[rows.index(RANDOM)]
    axes.plot(shares, random, color=COLOURS[RANDOM], linewidth=1, linestyle="--", label=LABELS[RANDOM])
    for direction in DIRECTIONS:
        mean, low, high = (
            getattr(intervals[f"{stem}/{direction}"], end)[rows.index(name)] for end in ("mean", "low", "high")
        )
        axes.plot(shares, mean, color=COLOURS[direction], linewidth=1.4, label=LABELS[direction])
        axes.fill_between(shares, low, high, color=COLOURS[direction], alpha=0.15, linewidth=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG file, there whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
