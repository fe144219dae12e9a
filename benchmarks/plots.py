"""Time against size, a panel for each axis."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.entry import Entry
from xai.files import replacing


def save_plots(entries: Sequence[Entry], path: Path) -> None:
    """All entries with points, if there are any; both axes logarithmic, the other side dashed."""
    grown = [entry for entry in entries if entry.points]
    names = list(dict.fromkeys(entry.axis for entry in grown))
    if not names:
        return
    figure, panels = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.4), layout="constrained", squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        _draw(axes, [entry for entry in grown if entry.axis == name], name)
    panels[0, 0].set_ylabel("seconds")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def _draw(axes: Any, entries: Sequence[Entry], name: str) -> None:
    for entry in entries:
        sizes, ours, _ = zip(*entry.points, strict=True)
        axes.loglog(sizes, ours, marker="o", markersize=4, label=entry.what.split(",")[0].split(" / ")[0])
    sizes, _, other = zip(*entries[0].points, strict=True)
    if not any(map(math.isnan, other)):
        axes.loglog(sizes, other, "k--", label=entries[0].what.split(",")[0].split(" / ")[1])
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(name)
    axes.legend(frameon=False, fontsize="small")
