"""The summary of the values of all samples for metrics.json: means with intervals, tests against random maps, strata."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from clipmapper.benchmark import published
from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.store import Results
from clipmapper.benchmark.task import Task
from xai.explainers.registry import method_named
from xai.metrics.protocols import DIRECTIONS, area
from xai.metrics.resampling import interval_of
from xai.metrics.statistics import Comparison, Interval, compare, holm, mean_interval

INVERTED = " inverted"  # added to the name of the method whose maps are turned around
GAIN = "srg"  # symmetric relevance gain: the area of least relevant first minus that of most relevant first
CURVE_RESAMPLES = 1000  # for the bands of curves, of which there are many


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of all rows of the table: its means, and their differences to random maps."""

    interval: Interval
    against: Comparison


def summarise(
    task: Task, results: Results, config: BenchmarkConfig, costs: Mapping[str, Any], sanity: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what metrics.json holds under "explainers"; shares and probabilities from 0 to 1.

    Args:
        task: what was benchmarked.
        results: of all samples, with the inverted best method.
        config: the settings.
        costs: by method what it costs alone.
        sanity: by method and group of parameters the rank correlation of each sample.
    """
    metrics = all_metrics(task, results, config)
    means = numbers(results, task)
    methods = {name: _entry(name, i, results, metrics, costs, sanity) for i, name in enumerate(results.rows)}
    ordered = sorted(methods, key=lambda name: -_place(methods[name], task.order))
    shown = {name: methods[name] for name in ordered}
    return {
        "task": task.name,
        "samples": len(results.samples["sample"]),
        **{name: float(np.mean(results.samples[name])) for name in ("accuracy",) if name in results.samples},
        "protocol": {name: protocol.record() for name, protocol in task.protocols().items()} if config.removal else {},
        "methods": shown,
        "published": published.beside(task.published, shown),
        "strata": {name: _stratum(results, means, members, config) for name, members in strata(task, results).items()},
    }


def all_metrics(task: Task, results: Results, config: BenchmarkConfig) -> dict[str, Metric]:
    """Returns the means over samples with intervals and paired tests, then the task's metrics of the whole corpus."""
    baseline = results.rows.index(RANDOM)
    metrics = {
        key: Metric(mean_interval(v, resamples=config.resamples), compare(v, v[baseline], config.resamples))
        for key, v in numbers(results, task).items()
    }
    for key, resampled in task.corpus(results.values, results.details, results.rows, config).items():
        metrics[key] = _of_corpus(resampled, baseline, len(results.samples["sample"]))
    return metrics


def numbers(results: Results, task: Task) -> dict[str, np.ndarray]:
    """Returns by metric a number of each sample, [rows, samples]: of a curve its area, and the gain of each pair."""
    shares = {name: protocol.shares for name, protocol in task.protocols().items()}
    values: dict[str, np.ndarray] = {}
    for key, array in results.values.items():
        if array.ndim == 2:
            values[key] = array
            continue
        values[key] = area(torch.from_numpy(array).double(), shares[key.partition("/")[0]]).numpy()
        stem, _, direction = key.rpartition("/")
        if direction == DIRECTIONS[1]:
            values[f"{stem}/{GAIN}"] = values[key] - values[f"{stem}/{DIRECTIONS[0]}"]
    return values


def with_inverted(task: Task, results: Results) -> Results:
    """Returns the results with the maps of the best method turned around, which should lose by as much as they won."""
    values, last = numbers(results, task), results.rows.index(RANDOM)
    gains = [key for key in task.order if key.endswith(GAIN) and key in values]
    if not gains or not last:
        return results
    with np.errstate(invalid="ignore"):
        means = sum(np.nan_to_num(_mean(values[key][:last]), nan=-np.inf) for key in gains)
    if not np.isfinite(means).any():
        return results
    best = int(np.argmax(means))
    turned = {}
    for key, array in results.values.items():
        stem, _, direction = key.rpartition("/")
        other = f"{stem}/{DIRECTIONS[1 - DIRECTIONS.index(direction)]}" if array.ndim == 3 else ""
        row = results.values[other][best] if other else np.full_like(array[0], np.nan)
        turned[key] = np.concatenate([array, row[None]])
    return replace(results, rows=(*results.rows, results.rows[best] + INVERTED), values=turned)


def strata(task: Task, results: Results) -> dict[str, np.ndarray]:
    """Returns booleans [samples]: right, wrong, and each value of the task's columns."""
    samples, parts = results.samples, {}
    if "right" in samples and None not in samples["right"]:
        right = np.array(samples["right"], dtype=bool)
        parts = {"right": right, "wrong": ~right}
    for column in task.strata:
        entries = np.array(samples[column], dtype=object)
        parts |= {str(name): entries == name for name in sorted(set(samples[column]) - {"", None})}
    return {name: members for name, members in parts.items() if members.any()}


def bands(results: Results) -> dict[str, Interval]:
    """Returns the means of the curves over samples [rows, steps] with their intervals, by metric."""
    curves = {key: values for key, values in results.values.items() if values.ndim == 3}
    return {key: mean_interval(c.transpose(0, 2, 1), resamples=CURVE_RESAMPLES) for key, c in curves.items()}


def number(value: Any) -> float | None:
    """Returns a number for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None


def plain(interval: Interval, index: Any = ()) -> dict[str, float | None]:
    return {name: number(getattr(interval, name)[index]) for name in ("mean", "low", "high")}


def class_agnostic(row: str) -> bool:
    """Returns whether a row's method gives the same relevance whatever is explained."""
    name = row.removesuffix(INVERTED).partition("/")[0]
    return name == RANDOM or method_named(name).class_agnostic


def _entry(
    name: str,
    i: int,
    results: Results,
    metrics: Mapping[str, Metric],
    costs: Mapping[str, Any],
    sanity: Mapping[str, Any],
) -> dict[str, Any]:
    samples = max((int(metric.interval.samples[i]) for metric in metrics.values()), default=0)
    means = {key: plain(m.interval, i) | {"samples": int(m.interval.samples[i])} for key, m in metrics.items()}
    return {
        "class_agnostic": class_agnostic(name),
        "error": results.errors.get(name),
        "samples": samples,
        "metrics": means,
        "figures": means,  # their name until 0.1, which others' scripts read
        "against_random": {
            key: {
                **plain(m.against.difference, i),
                "p": number(m.against.p[i]),
                "adjusted": number(m.against.adjusted[i]),
            }
            for key, m in metrics.items()
            if name != RANDOM
        },
        "cost": costs.get(name, {}),
        "sanity": _sanity(sanity.get(name, {})),
    }


def _of_corpus(resampled: np.ndarray, baseline: int, samples: int) -> Metric:
    """Returns a metric from [rows, 1 + resamples]; p is twice the share of resampled differences on the rarer side of zero."""
    values = torch.from_numpy(resampled)
    differences = resampled - resampled[baseline]
    below, above = (
        (side.sum(axis=1) + 1) / (side.shape[1] + 1) for side in (differences[:, 1:] <= 0, differences[:, 1:] >= 0)
    )
    p = np.where(np.isfinite(differences[:, 0]), np.minimum(2 * np.minimum(below, above), 1), np.nan)
    others = np.arange(len(p)) != baseline
    adjusted = np.where(others, np.nan, p)
    adjusted[others] = holm(p[others])
    return Metric(
        interval_of(values, samples), Comparison(interval_of(torch.from_numpy(differences), samples), p, adjusted)
    )


def _stratum(
    results: Results, values: Mapping[str, np.ndarray], members: np.ndarray, config: BenchmarkConfig
) -> dict[str, Any]:
    intervals = {key: mean_interval(v[:, members], resamples=config.resamples) for key, v in values.items()}
    by_row = {name: {key: plain(t, i) for key, t in intervals.items()} for i, name in enumerate(results.rows)}
    return {"samples": int(members.sum()), "methods": by_row}


def _sanity(correlations: Mapping[str, list[float | None]]) -> dict[str, dict[str, float | None]]:
    """Means over samples by group of parameters; empty for what was not measured, such as random maps."""
    values = {group: np.array(by_sample, dtype=np.float64) for group, by_sample in correlations.items()}  # None: NaN
    return {group: plain(mean_interval(v)) for group, v in values.items()}


def _place(entry: Mapping[str, Any], order: tuple[str, ...]) -> float:
    means = [entry["metrics"][key]["mean"] for key in order if key in entry["metrics"]]
    return -np.inf if not means or None in means else sum(means)


def _mean(values: np.ndarray) -> np.ndarray:
    """Means of [rows, samples] over those that are defined; NaN where none is."""
    defined = np.isfinite(values)
    return np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
