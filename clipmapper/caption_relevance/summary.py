"""From figures of words, captions and removed patches to tables: means over images with 95 % bootstrap intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from clipmapper.caption_relevance.measure import AVERAGE, RANDOM, SEEDS, Measured, Whole
from clipmapper.comparison.summary import CURVE_RESAMPLES, number, plain
from clipmapper.metrics.caption_truth import KINDS
from clipmapper.truth.scores import BASELINES
from xai.metrics import ranking
from xai.metrics.protocols import DIRECTIONS, Protocol, area, srg
from xai.metrics.statistics import Interval, mean_interval

PLACES = ("mass", "rank")  # where relevance falls: figures of `truth.scores.score`
Array = np.ndarray


def label(whole: Whole) -> str:
    """Short: the method, and the weights unless they are equal."""
    method, weights = whole
    return method if weights == AVERAGE else f"{method}/{weights}"


def words_table(measured: Measured, methods: Sequence[str]) -> pa.Table:
    """One row for each word that names something and each method."""
    assert measured.in_words is not None
    names = [*methods, *BASELINES]
    columns: dict[str, Any] = {name: values * len(names) for name, values in measured.words.items()}
    columns["method"] = np.repeat(names, len(measured.words["word"]))
    return pa.table(columns | {name: measured.in_words[i].ravel() for i, name in enumerate(PLACES)})


def curves_table(measured: Measured, wholes: Sequence[Whole], protocol: Protocol, ids: Sequence[int]) -> pa.Table:
    """One row for each image, whole map, direction and share of patches removed; random maps by their seeds."""
    names = [*wholes, *((RANDOM, str(seed)) for seed in SEEDS)]
    shape = (len(names), len(DIRECTIONS), len(ids), len(protocol.shares))
    index = [axis.ravel() for axis in np.indices(shape)]
    labels: dict[str, Any] = {
        "method": np.array([method for method, _ in names])[index[0]],
        "weights": np.array([name for _, name in names])[index[0]],
        "direction": np.array(DIRECTIONS)[index[1]],
        "image_id": np.array(ids)[index[2]],
        "share": np.array(protocol.shares)[index[3]],
    }
    return pa.table(labels | {name: curves.numpy().ravel() for name, curves in measured.curves.items()})


def words_summary(measured: Measured, methods: Sequence[str]) -> dict[str, Any]:
    """By kind of word and figure each method's mean: first over the words of an image, then over images."""
    assert measured.in_words is not None
    kinds, images = np.array(measured.words["kind"]), np.array(measured.words["image_id"])
    found: dict[str, Any] = {}
    for kind in KINDS:
        chosen = kinds == kind
        by_figure = {name: by_image(measured.in_words[i][:, chosen], images[chosen]) for i, name in enumerate(PLACES)}
        found[kind] = {name: by_row([*methods, *BASELINES], values) for name, values in by_figure.items()}
        found[kind]["words"] = int(chosen.sum())
    return {**found, "of no object": measured.unnamed}


def by_image(values: Array, images: Array) -> Array:
    """[methods, words] to the means over each image's words, [methods, images]."""
    distinct = np.unique(images)
    return (
        np.stack([values[:, images == image].mean(axis=1) for image in distinct], axis=1) if len(distinct) else values
    )


def wholes_summary(measured: Measured, wholes: Sequence[Whole]) -> dict[str, Any]:
    """Where whole maps fall, and the paired differences of weights to equal ones of the same method."""
    assert measured.in_whole is not None
    names = [*map("/".join, wholes), *BASELINES]
    found = {name: by_row(names, measured.in_whole[i]) for i, name in enumerate(PLACES)}
    against = {name: against_average(wholes, measured.in_whole[i]) for i, name in enumerate(PLACES)}
    return {**found, "minus average": against}


def perturbation_summary(measured: Measured, wholes: Sequence[Whole], protocol: Protocol) -> dict[str, Any]:
    """By figure the areas of both directions, SRG and mean curves of each whole map; random maps are one, their mean."""
    found: dict[str, Any] = {"protocol": protocol.record()}
    names = [*map("/".join, wholes), RANDOM]
    by_figure = bands(measured, wholes)
    for figure, curves in mean_floor(measured, wholes).items():
        areas = area(curves, protocol.shares)
        gain = srg(areas).numpy()
        found[figure] = {name: by_row(names, areas[:, i].numpy()) for i, name in enumerate(DIRECTIONS)}
        found[figure] |= {"srg": by_row(names, gain), "minus average": against_average(wholes, gain)}
        found[figure]["curves"] = {
            name: {direction: _band(by_figure[figure], i, j) for j, direction in enumerate(DIRECTIONS)}
            for i, name in enumerate(names)
        }
    return found


def mean_floor(measured: Measured, wholes: Sequence[Whole]) -> dict[str, Tensor]:
    """Curves [wholes and RANDOM, directions, images, steps] by figure, with the mean over random maps last."""
    return {name: ranking.mean_floor(curves, len(wholes)) for name, curves in measured.curves.items()}


def bands(measured: Measured, wholes: Sequence[Whole]) -> dict[str, Interval]:
    """Means of those curves over images, [wholes and RANDOM, directions, steps]."""
    return {
        name: mean_interval(curves.transpose(2, 3).numpy(), resamples=CURVE_RESAMPLES)
        for name, curves in mean_floor(measured, wholes).items()
    }


def against_average(wholes: Sequence[Whole], values: Array) -> dict[str, Any]:
    """Of each whole with other weights, how far it is above its method's with equal ones, image by image."""
    row = {whole: i for i, whole in enumerate(wholes)}
    pairs = {"/".join(w): values[row[w]] - values[row[w[0], AVERAGE]] for w in wholes if w[1] != AVERAGE}
    return by_row(list(pairs), np.stack(list(pairs.values()))) if pairs else {}


def by_row(names: Sequence[str], values: Array) -> dict[str, Any]:
    """The interval of each row of [names, samples]."""
    interval = mean_interval(values)
    return {name: _plain(interval, i) for i, name in enumerate(names)}


def report(result: Mapping[str, Any]) -> str:
    """The summary as text: shares of relevance in percent, the others as they are."""
    lines = []
    if "words" in result:
        kinds = {kind: result["words"][kind] for kind in KINDS if result["words"][kind]["words"]}
        for figure in PLACES:
            columns = {f"{kind} words": cells[figure] for kind, cells in kinds.items()}
            lines += _table(f"{figure} in the named object, %", columns, 100)
        lines += _table("all named objects, %", {figure: result["wholes"][figure] for figure in PLACES}, 100)
        lines += _differences("weights minus average, %", result["wholes"]["minus average"], 100)
    for figure, cells in result.get("perturbation", {}).items():
        if figure != "protocol":
            lines += _table(f"removing patches: {figure}", {n: cells[n] for n in (*DIRECTIONS, "srg")}, 1)
            lines += _differences("weights minus average", {"srg": cells["minus average"]}, 1)
    lines += [f"{name} failed: {error}" for name, error in result.get("errors", {}).items()]
    lines += [f"weights by {name} left out: {reason}" for name, reason in result.get("not computed", {}).items()]
    return "\n".join([*lines, f"{result['images']} images"])


def _table(title: str, columns: Mapping[str, Mapping[str, Any]], factor: float) -> list[str]:
    first = next(iter(columns.values()), {})
    order = sorted(first, key=lambda name: -(first[name]["mean"] or 0))
    lines = [title.ljust(36) + "".join(name.rjust(28) for name in columns)]
    return [*lines, *(_line(name, [column[name] for column in columns.values()], factor) for name in order), ""]


def _differences(title: str, columns: Mapping[str, Mapping[str, Any]], factor: float) -> list[str]:
    return _table(title, columns, factor) if any(columns.values()) else []


def _line(name: str, cells: Sequence[Mapping[str, Any]], factor: float) -> str:
    return f"  {name}".ljust(36) + "".join(_cell(cell, factor).rjust(28) for cell in cells)


def _cell(cell: Mapping[str, Any], factor: float) -> str:
    if cell["mean"] is None:
        return "undefined"
    digits = 1 if factor == 100 else 3
    mean, low, high = (f"{factor * cell[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _band(interval: Interval, row: int, direction: int) -> dict[str, list[float | None]]:
    """None where undefined: of a method that failed."""
    ends = {name: getattr(interval, name)[row, direction].tolist() for name in ("mean", "low", "high")}
    return {name: [number(value) for value in values] for name, values in ends.items()}


def _plain(interval: Interval, row: int) -> dict[str, Any]:
    return plain(interval, row) | {"images": int(interval.samples[row])}
