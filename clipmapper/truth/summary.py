"""From figures of methods on questions to tables: means with 95 % bootstrap intervals, and who is best by how much."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipmapper.truth.scores import BASELINES, FIGURES, SILENT, Measured
from xai.metrics.statistics import Interval, by_stratum, mean_interval


def table(measured: Measured) -> pa.Table:
    """One row for each question and method."""
    count = len(measured.methods)
    columns: dict[str, Any] = {name: values * count for name, values in measured.records.items()}
    columns["method"] = np.repeat(measured.methods, measured.figures.shape[-1])
    figures = zip((*FIGURES, *SILENT), measured.figures, strict=True)
    return pa.table(columns | {name: figure.ravel() for name, figure in figures})


def summary(measured: Measured) -> dict[str, Any]:
    """For each figure the ranking of the methods, and their means among right and wrong answers and each question type.

    `silent` is the share of questions on which a method gives no patch, or no word, positive relevance.
    """
    accuracy, types = np.array(measured.records["accuracy"]), np.array(measured.records["question_type"])
    strata = {"right": accuracy > 0, "wrong": accuracy == 0, **{str(name): types == name for name in np.unique(types)}}
    figures = {}
    for name, values in zip(FIGURES, measured.figures[: len(FIGURES)], strict=True):
        within = {part: _by_method(measured.methods, i) for part, i in by_stratum(values, strata).items()}
        figures[name] = {**ranking(measured.methods, values), "strata": within}
    return {
        "questions": len(accuracy),
        "accuracy": float(accuracy.mean()),
        "without_region": int((~has_region(measured)).sum()),
        "silent": {
            name: dict(zip(measured.methods, values.mean(axis=-1).tolist(), strict=True))
            for name, values in zip(SILENT, measured.figures[len(FIGURES) :], strict=True)
        },
        "figures": figures,
    }


def has_region(measured: Measured) -> np.ndarray:
    """Which questions have deciding objects: "no" and a count of 0 have none."""
    return np.isfinite(measured.figures[FIGURES.index("region_mass"), measured.methods.index("chance")])


def ranking(methods: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    """Methods by the mean of their values [method, question], and the paired difference of the best to the next."""
    interval = mean_interval(values)
    order = np.argsort(-np.nan_to_num(interval.mean, nan=-np.inf), kind="stable")
    by_method = _by_method(methods, interval)
    found: dict[str, Any] = {"ranking": [{"method": methods[i], **by_method[methods[i]]} for i in order]}
    best, *others = [i for i in order if methods[i] not in BASELINES]
    if others:
        lead = mean_interval(values[best] - values[others[0]])
        found |= {"best": methods[best], "next": methods[others[0]], "lead": _plain(lead)}
        found["lead_excludes_zero"] = bool(lead.excludes_zero) and float(lead.mean) > 1e-6  # more than rounding
    return found


def report(result: Mapping[str, Any]) -> str:
    """A summary as text, in percent, the method with most mass in the region first."""
    cells = {
        name: {entry["method"]: _cell(entry) for entry in figure["ranking"]}
        for name, figure in result["figures"].items()
    }
    lines = [_line("%, mean [95 %]", [name.replace("_", " ") for name in FIGURES])]
    lines += [_line(method, [cells[name][method] for name in FIGURES]) for method in cells[FIGURES[0]]]
    for name, figure in result["figures"].items():
        if "lead" in figure:
            verdict = "wins" if figure["lead_excludes_zero"] else "leads, but the interval does not exclude zero"
            lines.append(f"{name}: {figure['best']} {verdict}: {_cell(figure['lead'])} over {figure['next']}")
    for name, shares in result["silent"].items():
        if often := ", ".join(f"{method} {100 * share:.1f} %" for method, share in shares.items() if share):
            lines.append(f"{name}, scored as chance: {often} of the questions")
    lines.append(
        f"{result['questions']} questions, {100 * result['accuracy']:.1f} % answered right; "
        f"{result['without_region']} have no deciding object, so no region"
    )
    return "\n".join(lines)


def _by_method(methods: Sequence[str], interval: Interval) -> dict[str, dict[str, Any]]:
    return {name: _plain(interval, i) for i, name in enumerate(methods)}


def _plain(interval: Interval, index: Any = ()) -> dict[str, Any]:
    ends = {name: float(getattr(interval, name)[index]) for name in ("mean", "low", "high")}
    return {name: None if np.isnan(value) else value for name, value in ends.items()} | {
        "questions": int(interval.samples[index])
    }


def _line(first: str, cells: Sequence[str]) -> str:
    return first.ljust(22) + "".join(cell.rjust(21) for cell in cells)


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["mean"] is None:
        return "undefined"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * entry[name] for name in ("mean", "low", "high")))
