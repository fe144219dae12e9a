"""The table as text, for every task."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipmapper.benchmark import published
from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.task import Task
from xai.report.data import Column

NAME = 24  # characters of a row's name


def text(task: Task, metrics: Mapping[str, Any]) -> str:
    """Returns the summary as text, in percent where a metric is a share, best method first.

    Only the task's columns with a bar or a share are printed; the report has all.
    """
    methods = metrics["methods"]
    columns = [c for c in task.columns() if c.printed and any(c.key in m["metrics"] for m in methods.values())]
    groups = sorted({group for entry in methods.values() for group in entry["sanity"]})
    heads = [c.label for c in columns] + [f"{group}~" for group in groups] + ["s each"]
    rows = [_cells(entry, columns, groups) for entry in methods.values()]
    widths = [max(map(len, column)) + 2 for column in zip(heads, *rows, strict=True)]
    lines = [" " * NAME + _line(heads, widths)]
    for (name, entry), cells in zip(methods.items(), rows, strict=True):
        lines.append(
            (name + "*" * entry["class_agnostic"]).ljust(NAME)
            + _line(cells, widths)
            + "  "
            + note(name, entry, metrics)
        )
    lines += _notes(task, metrics, columns, groups)
    return "\n".join(line.rstrip() for line in lines)


def note(name: str, entry: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Returns what must be known of a row: why it failed, on how many samples it stands, how often it says nothing."""
    if entry["error"]:
        return f"failed: {entry['error']}"
    if name == RANDOM:
        return "mean over random maps"
    parts = []
    if entry["samples"] < metrics["samples"]:
        parts.append(f"{entry['samples']} of {metrics['samples']} samples")
    shares = [entry["metrics"][key]["mean"] for key in entry["metrics"] if key.endswith("/no_positive")]
    if often := max((share for share in shares if share), default=0):
        parts.append(f"no positive relevance for up to {100 * often:.1f} %: counted as chance")
    return ", ".join(parts)


def cell(value: Mapping[str, Any] | None, column: Column) -> str:
    """Returns a mean, with its interval where the column has a bar."""
    if value is None or value["mean"] is None:
        return "-"
    factor, digits = (100, 1) if column.share else (1, 3)
    mean, low, high = (
        None if value.get(k) is None else f"{factor * value[k]:.{digits}f}" for k in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]" if column.bar and low is not None else str(mean)


def _cells(entry: Mapping[str, Any], columns: Sequence[Column], groups: Sequence[str]) -> list[str]:
    cells = [cell(entry["metrics"].get(column.key), column) for column in columns]
    for group in groups:
        mean = entry["sanity"].get(group, {}).get("mean")
        cells.append("" if mean is None else f"{mean:.2f}")
    seconds = entry["cost"].get("seconds")
    return [*cells, "" if seconds is None else f"{seconds:.3f}"]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _notes(task: Task, metrics: Mapping[str, Any], columns: Sequence[Column], groups: Sequence[str]) -> list[str]:
    facts = [f"{metrics['samples']} {task.unit}s"]
    if "accuracy" in metrics:
        facts.append(f"{100 * metrics['accuracy']:.1f} % right")
    lines = [", ".join(facts) + ". Shares in %, with 95 % intervals. * ignores what is explained."]
    lines += [f"{column.label}: {column.help}." for column in columns if column.help]
    if groups:
        lines.append("~: rank correlation with the relevance after these parameters are shuffled; near 0 is good.")
    order = published.text(metrics["published"])
    return [*lines, order] if order else lines
