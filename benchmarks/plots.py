"""Time against size, one picture an axis."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.entry import Entry
from xai.files import replacing


def save_plots(entries: Sequence[Entry], folder: Path) -> list[Path]:
    """`growth_AXIS.png` of all entries with points; both axes logarithmic, the other side dashed."""
    paths = []
    for axis in dict.fromkeys(entry.axis for entry in entries if entry.points):
        path = folder / f"growth_{axis}.png"
        with replacing(path) as temporary:
            _draw([entry for entry in entries if entry.axis == axis], axis, temporary)
        paths.append(path)
    return paths


def _draw(entries: Sequence[Entry], axis: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for entry in entries:
        sizes, ours, _ = zip(*entry.points, strict=True)
        axes.loglog(sizes, ours, marker="o", label=entry.what.split(",")[0].split(" / ")[0])
    sizes, _, other = zip(*entries[0].points, strict=True)
    if not any(map(math.isnan, other)):
        axes.loglog(sizes, other, "k--", label=entries[0].what.split(",")[0].split(" / ")[1])
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.set(xlabel=axis, ylabel="seconds")
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=120)
    plt.close(figure)
