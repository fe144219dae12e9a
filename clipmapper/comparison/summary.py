"""From figures of each question to the table: means with intervals, tests against the random floor, strata."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from clipmapper.comparison import published
from clipmapper.comparison.explained import RANDOM
from clipmapper.comparison.measure import MODALITIES, Measured
from xai.explainers import IGNORE_TARGET
from xai.metrics.protocols import DIRECTIONS, area, named, srg
from xai.metrics.statistics import Interval, compare, mean_interval

INVERTED = " inverted"  # added to the name of the method whose maps are turned around
SHOWN = {  # in the printed table
    "image/probability/srg": "image prob. SRG",
    "text/probability/srg": "text prob. SRG",
    "image/accuracy/srg": "image accuracy SRG",
    "text/accuracy/srg": "text accuracy SRG",
    "image/accuracy/positive": "image +",
    "image/accuracy/negative": "image -",
    "text/accuracy/positive": "text +",
    "text/accuracy/negative": "text -",
    "truth/image_mass": "on object",
    "truth/text_mass": "on words",
    "image_share": "on image",
}
APART = (
    "mapper~".rjust(10) + "CLIP~".rjust(10) + "s/question".rjust(12)
)  # in the printed table, measured on a few questions
CURVE_RESAMPLES = 1000  # for the bands of curves, of which there are many


def values(measured: Measured, protocol: str) -> dict[str, np.ndarray]:
    """All figures [methods, questions]: "image/accuracy/positive" and so on, "…/srg", truth scores, modality share."""
    found: dict[str, np.ndarray] = {}
    for key, curves in measured.curves.items():
        areas = area(torch.from_numpy(curves).double(), named(protocol, key.partition("/")[0]).shares)
        found |= {f"{key}/{direction}": areas[:, i].numpy() for i, direction in enumerate(DIRECTIONS)}
        found[f"{key}/srg"] = srg(areas).numpy()
    return {**found, **measured.figures}


def with_inverted(measured: Measured, protocol: str) -> Measured:
    """With the maps of the best method turned around, which should lose to random by as much as they won."""
    found, serious = values(measured, protocol), len(measured.methods) - 1
    total = sum(
        np.nan_to_num(_mean(found[f"{modality}/probability/srg"][:serious]), nan=-np.inf) for modality in MODALITIES
    )
    if not serious or not np.isfinite(total).any():
        return measured
    best = int(np.argmax(total))
    return replace(
        measured,
        methods=(*measured.methods, measured.methods[best] + INVERTED),
        curves={key: np.concatenate([c, c[best, None, ::-1]]) for key, c in measured.curves.items()},
        figures={key: np.concatenate([f, np.full_like(f[:1], np.nan)]) for key, f in measured.figures.items()},
    )


def summary(
    measured: Measured, protocol: str, costs: Mapping[str, Any], sanity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What metrics.json holds under "explainers"; accuracies and probabilities from 0 to 1.

    `against_random` is the paired difference to the random floor; its p-values are corrected (Holm) over the methods of
    one figure. `costs` and `sanity` are by method.
    """
    found = values(measured, protocol)
    floor = measured.methods.index(RANDOM)
    tests = {key: compare(v, v[floor]) for key, v in found.items()}
    intervals = {key: mean_interval(v) for key, v in found.items()}
    methods = {
        name: {
            "class_agnostic": name.removesuffix(INVERTED) in IGNORE_TARGET,
            "error": measured.errors.get(name),
            "undefined": int(np.isnan(found["image/probability/srg"][i] + found["text/probability/srg"][i]).sum()),
            "figures": {key: plain(interval, i) for key, interval in intervals.items()},
            "against_random": {
                key: {**plain(test.difference, i), "p": number(test.p[i]), "adjusted": number(test.adjusted[i])}
                for key, test in tests.items()
                if i != floor
            },
            "cost": costs.get(name, {}),
            "sanity": _sanity((sanity or {}).get(name, {})),
        }
        for i, name in enumerate(measured.methods)
    }
    return {
        "questions": len(measured.records["row"]),
        "accuracy": float(np.mean(measured.records["accuracy"])),
        "protocol": {modality: named(protocol, modality).record() for modality in MODALITIES},
        "methods": methods,
        "published": published.beside(methods),
        "strata": {name: _within(measured.methods, found, members) for name, members in strata(measured).items()},
    }


def strata(measured: Measured) -> dict[str, np.ndarray]:
    """Booleans [questions]: answered right, which is an answer that an annotator gave; wrong; of each answer type."""
    accuracy, types = np.array(measured.records["accuracy"]), np.array(measured.records["answer_type"])
    of_type = {str(name): types == name for name in np.unique(types) if name}
    found = {"right": accuracy > 0, "wrong": accuracy == 0, **of_type}
    return {name: members for name, members in found.items() if members.any()}


def bands(measured: Measured) -> dict[str, Interval]:
    """Means of the curves [methods, directions, steps] with their intervals, by "modality/figure"."""
    return {
        key: mean_interval(curves.transpose(0, 1, 3, 2), resamples=CURVE_RESAMPLES)
        for key, curves in measured.curves.items()
    }


def report(result: Mapping[str, Any]) -> str:
    """The table as text, in percent, the method with most gain over both modalities first."""
    names = sorted(result["methods"], key=lambda name: -_gain(result["methods"][name]))
    known = next(iter(result["methods"].values()))["figures"]
    keys = [key for key in SHOWN if key in known]
    lines = ["%".ljust(24) + "".join(SHOWN[key].rjust(_width(key)) for key in keys) + APART]
    for name in names:
        entry = result["methods"][name]
        undefined = f"undefined for {entry['undefined']}" if entry["undefined"] else ""
        cells = [_cell(entry["figures"][key], key.endswith("srg")).rjust(_width(key)) for key in keys]
        lines.append(
            f"{(name + '*' * entry['class_agnostic']).ljust(24)}{''.join(cells)}{_apart(entry)}"
            f"  {entry['error'] or undefined}"
        )
    lines.append(
        f"{result['questions']} questions, {100 * result['accuracy']:.1f} % answered right. SRG: the area of least relevant "
        "first (-) minus that of most relevant first (+), with 95 % intervals.\n"
        "+, -: of accuracy. * ignores which answer is explained. ~: rank correlation with the relevance of the model with a "
        "shuffled mapper, or CLIP; near 0 is good.\n" + published.text(result["published"])
    )
    return "\n".join(line.rstrip() for line in lines)


def plain(interval: Interval, index: Any = ()) -> dict[str, float | None]:
    return {name: number(getattr(interval, name)[index]) for name in ("mean", "low", "high")}


def number(value: Any) -> float | None:
    """For JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None


def _sanity(correlations: Mapping[str, list[float | None]]) -> dict[str, dict[str, float | None]]:
    """By group of parameters the mean over questions; empty for what was not measured, such as the floor."""
    known = {group: np.array(found, dtype=np.float64) for group, found in correlations.items()}  # None becomes NaN
    return {group: plain(mean_interval(found)) for group, found in known.items()}


def _within(methods: tuple[str, ...], found: Mapping[str, np.ndarray], members: np.ndarray) -> dict[str, Any]:
    intervals = {key: mean_interval(v[:, members]) for key, v in found.items()}
    by_method = {name: {key: plain(t, i) for key, t in intervals.items()} for i, name in enumerate(methods)}
    return {"questions": int(members.sum()), "methods": by_method}


def _mean(by_question: np.ndarray) -> np.ndarray:
    """Over the defined ones; NaN where none is."""
    defined = np.isfinite(by_question)
    with np.errstate(invalid="ignore"):
        return np.where(defined, by_question, 0).sum(axis=1) / defined.sum(axis=1)


def _gain(entry: Mapping[str, Any]) -> float:
    gains = [entry["figures"][f"{modality}/probability/srg"]["mean"] for modality in MODALITIES]
    return -np.inf if None in gains else sum(gains)


def _apart(entry: Mapping[str, Any]) -> str:
    """The cells under APART, empty where nothing was measured."""
    sane, seconds = entry["sanity"], entry["cost"].get("seconds")
    cells = [_cell(sane[group], False) if group in sane else "" for group in ("mapper", "clip")]
    return "".join(cell.rjust(10) for cell in cells) + ("" if seconds is None else f"{seconds:.3f}").rjust(12)


def _width(key: str) -> int:
    return 22 if key.endswith("srg") else 10


def _cell(entry: Mapping[str, Any], with_interval: bool) -> str:
    if entry["mean"] is None:
        return "-"
    mean, low, high = (100 * entry[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]" if with_interval else f"{mean:.1f}"
