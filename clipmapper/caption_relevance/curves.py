"""Perturbation curves of captions as a picture."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from clipmapper.comparison import curves
from xai.metrics.statistics import Interval


def draw(bands: Mapping[str, Interval], names: Sequence[str], protocol: str) -> Figure:
    """As `comparison.curves.draw`, by "image/FIGURE"; the figures of captions may be negative, or far from 0."""
    figure = curves.draw(bands, names, protocol)
    for axes in figure.axes:
        axes.autoscale(axis="y")
    return figure
