"""A benchmark as the plain data of an HTML report, for every task."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clipmapper.benchmark import published, table
from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.store import Results
from clipmapper.benchmark.summary import GAIN, INVERTED, bands
from clipmapper.benchmark.task import Task
from xai.metrics.protocols import DIRECTIONS
from xai.report.data import Chart, Column, Curve, Explanation, Figure, Report, Row, Sample, Section, Table

ORDER = {"positive": "most relevant removed first", "negative": "least relevant removed first"}
BETTER: dict[str, Literal["higher", "lower"]] = {"positive": "lower", "negative": "higher"}
FIRST = 5  # methods whose curves are drawn at first, beside random maps
COSTS = {
    "seconds": ("s each", "seconds a sample, alone, recording included"),
    "megabytes": ("MB", "by which memory rose at most: a GPU's, or on a CPU that of tensors"),
    "forward": ("forward", "forward passes of the whole model"),
    "backward": ("backward", "backward passes of the whole model"),
}
SANITY = "rank correlation of the relevance with that after the parameters of {} are shuffled, on a few samples; near 0 is good"
PUBLISHED: dict[str, tuple[str, Literal["lower"] | None]] = {
    "our_rank": ("our rank", "lower"),
    "published_rank": ("published rank", "lower"),
    "ours": ("ours, %", None),
    "published": ("published, %", None),
}


def report(task: Task, results: Results, metrics: Mapping[str, Any], samples: Sequence[Sample]) -> Report:
    """Returns what the page shows; `metrics` is `summary.summarise`'s."""
    methods = metrics["methods"]
    keys = {key for entry in methods.values() for key in entry["metrics"]}
    rows = tuple(_row(name, entry, entry["metrics"], metrics) for name, entry in methods.items())
    tables = [Table("all", metrics["samples"], rows)]
    for stratum, part in metrics["strata"].items():
        within = tuple(_row(name, methods[name], part["methods"][name], metrics) for name in methods)
        tables.append(Table(stratum, part["samples"], within))
    groups = sorted({group for entry in methods.values() for group in entry["sanity"]})
    columns = [column for column in task.columns() if column.key in keys]
    columns += [Column(f"sanity/{g}", f"{g} shuffled", "sanity", "lower", SANITY.format(g)) for g in groups]
    columns += [Column(f"cost/{key}", label, "cost", "lower", text) for key, (label, text) in COSTS.items()]
    ours = [name for name in methods if name != RANDOM and not name.endswith(INVERTED)]
    return Report(
        title=f"Explainers compared: {task.name}",
        facts={**task.facts, f"{task.unit}s": str(metrics["samples"])},
        columns=tuple(columns),
        tables=tuple(tables),
        charts=tuple(_charts(task, results)),
        gallery=tuple(samples),
        further=_published(metrics["published"]),
        kind="captions" if task.name == "captions" else "answers",
        shown=(*ours[:FIRST], RANDOM),
    )


def gallery(task: Task, results: Results, explanations: Mapping[int, Mapping[str, Explanation]]) -> list[Sample]:
    """Returns the samples whose explanations were kept; those whose image is gone are left out."""
    place = {key: i for i, key in enumerate(results.samples["sample"])}
    samples = []
    for key, by_method in explanations.items():
        record = {name: column[place[key]] for name, column in results.samples.items()}
        if (sample := task.gallery(record, by_method)) is not None:
            samples.append(sample)
    return samples


def removal_columns(
    prefix: str, label: str, figures: Mapping[str, tuple[str, bool]], printed: Sequence[str]
) -> list[Column]:
    """Returns the columns of removal curves: the gain of each figure, then the areas it is made of.

    Args:
        prefix: the first part of the metrics' names.
        label: what is removed.
        figures: by name of the output's figure its meaning and whether it is a share.
        printed: the metrics that the text table has, too.
    """
    columns = []
    for figure, (meaning, share) in figures.items():
        key = f"{prefix}/{figure}/{GAIN}"
        gain = f"area of {meaning} when the least relevant go first minus that when the most relevant do"
        name = figure.replace("_", "-")
        columns.append(
            Column(key, f"SRG {label} {name}", f"gain, {name}", "higher", gain, key in printed, share, key in printed)
        )
    for figure, (meaning, share) in figures.items():
        for direction in DIRECTIONS:
            key, sign = f"{prefix}/{figure}/{direction}", "+" if direction == "positive" else "-"
            text, group = f"area of {meaning}, {ORDER[direction]}", f"{figure.replace('_', '-')}, areas"
            columns.append(Column(key, f"{label} {sign}", group, BETTER[direction], text, False, share, key in printed))
    return columns


def location_columns(
    prefix: str, label: str, what: str, group: str = "ground truth", printed: bool = True
) -> list[Column]:
    """Returns the columns of where relevance falls; `what` it should fall on."""
    mass = f"share of the positive relevance that lies on {what}"
    rank = f"share of the most relevant tokens, as many as {what} have, that lie on {what}"
    precision = f"average precision of the order of tokens against {what}"
    no_positive = f"share of samples without positive relevance, which count as chance, {label}"
    return [
        Column(f"{prefix}/mass", f"on {label}", group, "higher", mass, False, True, printed),
        Column(f"{prefix}/rank", f"rank on {label}", group, "higher", rank, False, True, False),
        Column(f"{prefix}/precision", f"precision on {label}", group, "higher", precision, False, True, False),
        Column(f"{prefix}/no_positive", f"none, {label}", group, "lower", no_positive, False, True, False),
    ]


def _row(name: str, entry: Mapping[str, Any], values: Mapping[str, Any], metrics: Mapping[str, Any]) -> Row:
    shown = {key: Figure(v["mean"], v["low"], v["high"]) for key, v in values.items()}
    shown |= {f"cost/{key}": Figure(entry["cost"][key]) for key in COSTS if entry["cost"].get(key) is not None}
    shown |= {f"sanity/{group}": Figure(**v) for group, v in entry["sanity"].items()}
    baseline = name == RANDOM or name.endswith(INVERTED)
    text = "the same maps turned around" if name.endswith(INVERTED) else table.note(name, entry, metrics)
    return Row(name, shown, entry["class_agnostic"], text, "baseline" if baseline else "explainer")


def _charts(task: Task, results: Results) -> list[Chart]:
    charts = []
    for key, band in bands(results).items():
        stem, _, direction = key.rpartition("/")
        prefix, _, figure = stem.partition("/")
        curves = [
            Curve(name, *(_plain(getattr(band, end)[i]) for end in ("mean", "low", "high")))
            for i, name in enumerate(results.rows)
        ]
        shares = task.protocols()[prefix].shares
        charts.append(Chart(f"{prefix}, {ORDER[direction]}", figure, shares, tuple(curves), BETTER[direction]))
    first = [key.split("/")[1] for key in task.order if key.endswith(GAIN)]
    return sorted(charts, key=lambda chart: chart.figure not in first)


def _published(beside: Mapping[str, Any]) -> tuple[Section, ...]:
    """Ranks and figures of ours and of the paper side by side, metric by metric."""
    if not beside:
        return ()
    columns: list[Column] = []
    figures: defaultdict[str, dict[str, Figure]] = defaultdict(dict)
    for metric, part in beside["metrics"].items():
        for key, (label, better) in PUBLISHED.items():
            columns.append(Column(f"{metric}/{key}", label, metric.replace("/", ", "), better))
            for name, entry in part["methods"].items():
                figures[name][f"{metric}/{key}"] = Figure(entry[key])
    rows = tuple(Row(name, row) for name, row in figures.items())
    note = f"{published.text(beside)} Of the published figures only the order can be compared."
    return (Section("Beside published figures", note, tuple(columns), Table("all", len(figures), rows)),)


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)
