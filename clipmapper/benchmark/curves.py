"""Curves as numbers: means over samples of what is left of an answer, by the share of tokens removed."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.plots import LABELS
from xai.metrics.protocols import DIRECTIONS

Point = tuple[str, str, float, float]  # chart, line, share removed, value


def of_values(table: pa.Table) -> list[Point]:
    """Returns the points of all curves of a long table, such as values.parquet.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"metric": ["image/accuracy/positive"] * 2, "method": ["wra"] * 2, "step": [0.5] * 2, "value": [0.2, 0.4]}
        >>> of_values(pa.table(columns))
        [('image/accuracy', 'wra, most relevant removed first', 0.5, 0.3)]
    """
    columns = ["metric", "method", "step", "value"]
    texts = [pc.cast(table[name], pa.string()) for name in columns[:2]]
    value = pc.if_else(pc.is_finite(table["value"]), table["value"], None)
    plain = pa.table([*texts, table["step"], value], names=columns)
    steps = plain.filter(pc.is_valid(plain["step"]))
    means = steps.group_by(columns[:3], use_threads=False).aggregate([("value", "mean")])
    return _points(zip(*(means[name].to_pylist() for name in (*columns[:3], "value_mean")), strict=True))


def _points(means: Iterable[tuple[str, str, float, float | None]]) -> list[Point]:
    """Each metric that ends with a direction is a chart, with a line for each method and direction."""
    points = []
    for key, method, share, value in means:
        chart, _, direction = key.rpartition("/")
        if direction in DIRECTIONS and value is not None and np.isfinite(value):
            line = method if method == RANDOM else f"{method}, {LABELS[direction]}"
            points.append((chart, line, round(float(share), 6), round(float(value), 6)))
    return points
