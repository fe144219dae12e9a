"""What a benchmark found: metrics.json, samples.parquet, samples.png, and the table on the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from torch import nn

from clipmapper.comparison.summary import plain
from clipmapper.files import write_json
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.published.explained import Methods
from clipmapper.published.reference import published
from clipmapper.published.settings import Common
from xai.explainers import IGNORE_TARGET
from xai.figures.render import save
from xai.files import replacing
from xai.metrics.statistics import Interval


@dataclass(frozen=True)
class Found:
    """`figures` of all methods [methods], the random floor last; `samples` are rows of methods and samples."""

    benchmark: str
    figures: dict[str, Interval]
    protocol: dict[str, Any]
    samples: pa.Table
    picture: Figure | None
    facts: dict[str, Any]  # how many samples, the model's own accuracy


def write(found: Found, methods: Methods, model: nn.Module, settings: Common) -> dict[str, Any]:
    """Writes the files, prints the table, returns what metrics.json holds."""
    result = summary(found, methods) | {
        "model": {"source": settings.model, "class": type(model).__name__, "weights": weights_fingerprint(model)},
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()},
    }
    write_json(settings.output / "metrics.json", result)
    with replacing(settings.output / "samples.parquet") as temporary:
        pq.write_table(found.samples, temporary)
    if found.picture is not None:
        save(found.picture, settings.output / "samples.png")
    print(report(result))
    return result


def summary(found: Found, methods: Methods) -> dict[str, Any]:
    """For JSON: means with 95 % intervals, shares of 1, and the published figures beside them."""
    reference = published(found.benchmark)
    rows = {
        name: {
            "class_agnostic": name in IGNORE_TARGET,
            "error": methods.errors.get(name),
            "figures": {key: _entry(interval, i) for key, interval in found.figures.items()},
            "published": reference["methods"].get(name, {}),
        }
        for i, name in enumerate(methods.with_floor)
    }
    return {
        "benchmark": found.benchmark,
        **found.facts,
        "protocol": found.protocol,
        "published_in": reference["source"],
        "methods": rows,
    }


def report(result: Mapping[str, Any]) -> str:
    """The table as text, in percent; below each method what the papers say, where they say something."""
    names = list(next(iter(result["methods"].values()))["figures"])
    widths = [max(21, len(name) + 2) for name in names]
    lines = [_line("%, mean [95 %]", names, widths)]
    for method, entry in result["methods"].items():
        cells = [_cell(entry["figures"][name]) for name in names]
        lines.append(_line(method + "*" * entry["class_agnostic"], cells, widths) + f"  {entry['error'] or ''}")
        if entry["published"]:
            known = [f"{100 * entry['published'][n]:.2f}" if n in entry["published"] else "" for n in names]
            lines.append(_line("  published", known, widths))
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.items() if _is_number(value))
    lines.append(f"{facts}. Published: {result['published_in']}. * ignores which class is explained.")
    return "\n".join(line.rstrip() for line in lines)


def rows(methods: Methods, samples: Mapping[str, Sequence[Any]], figures: Mapping[str, np.ndarray]) -> pa.Table:
    """One row for each method and sample, from figures [methods, samples, ...]."""
    names = methods.with_floor
    count = len(next(iter(samples.values())))
    columns: dict[str, Any] = {name: [*values] * len(names) for name, values in samples.items()}
    columns["method"] = np.repeat(names, count)
    for name, values in figures.items():
        flat = values.reshape(len(names) * count, *values.shape[2:])
        columns[name] = flat if flat.ndim == 1 else list(flat)
    return pa.table(columns)


def _entry(interval: Interval, i: int) -> dict[str, Any]:
    return {**plain(interval, i), "samples": int(interval.samples[i]), "undefined": int(interval.undefined[i])}


def _line(first: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return first.ljust(22) + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["mean"] is None:
        return "undefined"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * entry[name] for name in ("mean", "low", "high")))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
