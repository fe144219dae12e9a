"""Perturbation curves as a picture: positive and negative, image and text, every method with its band."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from clipmapper.comparison.explained import RANDOM
from clipmapper.comparison.measure import MODALITIES
from xai.files import replacing
from xai.metrics.protocols import DIRECTIONS, named
from xai.metrics.statistics import Interval

ORDER = {"positive": "most relevant removed first", "negative": "least relevant removed first"}


def draw(bands: Mapping[str, Interval], methods: Sequence[str], protocol: str) -> Figure:
    """Two rows for each figure, such as accuracy: modalities; two columns: directions. `bands` as of `summary.bands`."""
    figure = Figure(figsize=(13, 4 * len(bands)), layout="constrained")
    panels = figure.subplots(len(bands), len(DIRECTIONS), squeeze=False)
    colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for row, key in zip(
        panels, sorted(bands, key=lambda key: (key.split("/")[1], MODALITIES.index(key.split("/")[0]))), strict=True
    ):
        modality, measured = key.split("/")
        shares = named(protocol, modality).shares
        for i, (axes, direction) in enumerate(zip(row, DIRECTIONS, strict=True)):
            for m, method in enumerate(methods):
                colour = "black" if method == RANDOM else colours[m % len(colours)]
                style = "--" if method == RANDOM or m >= len(colours) else "-"
                mean, low, high = (getattr(bands[key], name)[m, i] for name in ("mean", "low", "high"))
                axes.plot(shares, mean, style, color=colour, label=method, linewidth=1.2)
                axes.fill_between(shares, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set(title=f"{modality}: {ORDER[direction]}", xlabel="share removed", ylabel=measured, ylim=(0, None))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """A PNG file, there whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
