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
from clipmapper.benchmark.summary import GAIN, INVERTED, bands
from clipmapper.benchmark.task import Task
from xai.files import replacing
from xai.metrics.protocols import DIRECTIONS
from xai.metrics.statistics import Interval

ACROSS = 6  # panels in a row
COLOURS = {"positive": "#c0392b", "negative": "#2471a3", RANDOM: "#8a8a8a"}
LABELS = {"positive": "most relevant removed first", "negative": "least relevant removed first", RANDOM: "random maps"}


def curves(task: Task, results: Results, metrics: Mapping[str, Any]) -> Figure | None:
    """Draws for each gain that orders the methods a block of panels, best method first; None without removal."""
    intervals = bands(results)
    stems = [
        key.removesuffix(f"/{GAIN}") for key in task.order if f"{key.removesuffix(GAIN)}{DIRECTIONS[0]}" in intervals
    ]
    methods = [name for name, entry in metrics["methods"].items() if not entry["error"]]
    methods = [name for name in methods if name != RANDOM and not name.endswith(INVERTED)]
    if not stems or not methods:
        return None
    rows = ceil(len(methods) / ACROSS)
    figure = Figure(
        figsize=(2.3 * min(ACROSS, len(methods)) + 0.6, (2.0 * rows + 0.6) * len(stems)), layout="constrained"
    )
    for stem, block in zip(stems, np.atleast_1d(figure.subfigures(len(stems), 1)), strict=True):
        block.suptitle(f"{stem.replace('/', ', ')}: the wider the gap, the better the method", fontsize=10)
        panels = block.subplots(rows, min(ACROSS, len(methods)), sharex=True, sharey=True, squeeze=False).ravel()
        shares = task.protocols()[stem.partition("/")[0]].shares
        ordered = sorted(
            methods, key=lambda name: -(metrics["methods"][name]["metrics"][f"{stem}/{GAIN}"]["mean"] or 0)
        )
        for axes, name in zip(panels, ordered, strict=False):
            _panel(axes, shares, intervals, stem, results.rows, name)
            mean = metrics["methods"][name]["metrics"][f"{stem}/{GAIN}"]["mean"]
            axes.set_title(
                name
                if mean is None
                else f"{name}  {100 * mean:.1f}"
                if _is_share(stem, task)
                else f"{name}  {mean:.2f}",
                fontsize=8,
            )
        for axes in panels[len(ordered) :]:
            axes.set_axis_off()
        block.supxlabel("share removed", fontsize=8)
        block.supylabel(stem.rpartition("/")[2].replace("_", "-"), fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panel(
    axes: Axes,
    shares: tuple[float, ...],
    intervals: Mapping[str, Interval],
    stem: str,
    rows: tuple[str, ...],
    name: str,
) -> None:
    for direction in DIRECTIONS:
        band = intervals[f"{stem}/{direction}"]
        if direction == DIRECTIONS[0]:
            axes.plot(
                shares,
                band.mean[rows.index(RANDOM)],
                color=COLOURS[RANDOM],
                linewidth=1,
                linestyle="--",
                label=LABELS[RANDOM],
            )
        mean, low, high = (getattr(band, end)[rows.index(name)] for end in ("mean", "low", "high"))
        axes.plot(shares, mean, color=COLOURS[direction], linewidth=1.4, label=LABELS[direction])
        axes.fill_between(shares, low, high, color=COLOURS[direction], alpha=0.15, linewidth=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _is_share(stem: str, task: Task) -> bool:
    return any(column.key == f"{stem}/{GAIN}" and column.share for column in task.columns())


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG file, there whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
