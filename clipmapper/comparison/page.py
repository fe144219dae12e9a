"""A comparison as the plain data of an HTML report."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from clipmapper.clip import FrozenCLIP
from clipmapper.comparison.curves import ORDER
from clipmapper.comparison.explained import RANDOM
from clipmapper.comparison.measure import FIGURES, MODALITIES, SHARE, Measured
from clipmapper.comparison.summary import INVERTED, bands
from clipmapper.data.images import load_image
from clipmapper.data.vqa import Questions
from clipmapper.explain import preprocessing
from xai.evaluation.protocols import DIRECTIONS, named
from xai.report.data import Chart, Column, Curve, Explanation, Figure, Report, Row, Sample, Table

GALLERY = 40
BETTER: dict[str, Literal["higher", "lower"]] = {"positive": "lower", "negative": "higher"}
TRUTH = {
    "truth/image_mass": ("object mass", "share of the positive relevance that lies on deciding objects"),
    "truth/image_rank": (
        "object rank",
        "share of the most relevant patches, as many as decide, that lie on deciding objects",
    ),
    "truth/text_mass": ("word mass", "share of the positive relevance that lies on deciding words"),
    "truth/text_rank": ("word rank", "share of the most relevant words, as many as decide, that are deciding words"),
}
COSTS = {
    "seconds": ("s / question", "seconds a question, alone, recording included"),
    "megabytes": ("MB", "by which memory rose at most, on a GPU"),
    "forward": ("forward", "forward passes of the whole model"),
    "backward": ("backward", "backward passes of the whole model"),
}


def report(
    result: Mapping[str, Any], measured: Measured, samples: Sequence[Sample], protocol: str, facts: Mapping[str, str]
) -> Report:
    """`result` is `summary.summary`'s."""
    keys = list(next(iter(result["methods"].values()))["figures"])
    tables = [
        Table("all", result["questions"], tuple(_row(name, m, m["figures"]) for name, m in result["methods"].items()))
    ]
    for stratum, part in result["strata"].items():
        rows = tuple(_row(name, result["methods"][name], figures) for name, figures in part["methods"].items())
        tables.append(Table(stratum, part["questions"], rows))
    return Report(
        title="Explainers compared",
        facts={**facts, "protocol": protocol, "questions": str(result["questions"])},
        columns=tuple(_columns(keys)),
        tables=tuple(tables),
        charts=tuple(_charts(measured, protocol)),
        gallery=tuple(samples),
    )


def gallery(parts: Sequence[Path], questions: Questions, clip: FrozenCLIP, count: int = GALLERY) -> list[Sample]:
    """Questions from all over the comparison with every method's relevance, which the parts hold."""
    columns = ["row", "question_id", "question", "answer", "predicted", "accuracy", "answer_type"]
    rows = [
        entry
        for path in parts
        for entry in pq.read_table(
            path, columns=[*columns, "method", "error", "patches", "words", "word_scores", f"figure/{SHARE}"]
        ).to_pylist()
    ]
    by_question: dict[int, list[dict[str, Any]]] = {}
    for entry in rows:
        by_question.setdefault(entry["question_id"], []).append(entry)
    ids = list(by_question)
    taken = [ids[i] for i in np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    return [_sample(by_question[key], questions, clip) for key in taken]


def _sample(entries: Sequence[Mapping[str, Any]], questions: Questions, clip: FrozenCLIP) -> Sample:
    first, image = entries[0], load_image(questions.source(entries[0]["row"]))
    png = io.BytesIO()
    image.save(png, "PNG")
    placed = preprocessing(clip)((image.height, image.width))
    (top, left), (height, width), (rows, columns) = placed.offset, placed.window, placed.resized
    return Sample(
        id=str(first["question_id"]),
        image=png.getvalue(),
        question=first["question"],
        answer=first["answer"],
        prediction=first["predicted"],
        right=first["accuracy"] > 0,
        answer_type=first["answer_type"],
        explanations={entry["method"]: _explanation(entry, clip.grid) for entry in entries if not entry["error"]},
        window=(left / columns, top / rows, width / columns, height / rows),
    )


def _explanation(entry: Mapping[str, Any], grid: tuple[int, int]) -> Explanation:
    patches = np.nan_to_num(np.array(entry["patches"])).reshape(grid)
    words = zip(entry["words"], np.nan_to_num(np.array(entry["word_scores"])).tolist(), strict=True)
    share = entry[f"figure/{SHARE}"]
    return Explanation(tuple(map(tuple, patches.tolist())), tuple(words), share if np.isfinite(share) else None)


def _row(name: str, entry: Mapping[str, Any], figures: Mapping[str, Any]) -> Row:
    shown = {key: Figure(**figure) for key, figure in figures.items()}
    shown |= {f"cost/{key}": Figure(entry["cost"].get(key)) for key in COSTS if entry["cost"].get(key) is not None}
    note = entry["error"] or (f"undefined for {entry['undefined']} questions" if entry["undefined"] else "")
    if name == RANDOM:
        note = "mean over random scores: the floor"
    elif name.endswith(INVERTED):
        note = "the same maps turned around"
    floor = name == RANDOM or name.endswith(INVERTED)
    return Row(name, shown, entry["class_agnostic"], note, "floor" if floor else "explainer")


def _columns(keys: Sequence[str]) -> list[Column]:
    """Gains first, then the areas they are made of, then truth, share and cost."""
    pairs = [(figure, modality) for figure in FIGURES for modality in MODALITIES]
    found = [
        Column(
            f"{modality}/{figure}/srg",
            f"SRG {modality}",
            figure,
            "higher",
            "negative minus positive area",
            figure == FIGURES[0],
        )
        for figure, modality in pairs
    ]
    for figure, modality in pairs:
        for direction in DIRECTIONS:
            label = f"{modality} {'+' if direction == 'positive' else '-'}"
            help = f"area, {ORDER[direction]}"
            found.append(Column(f"{modality}/{figure}/{direction}", label, f"{figure}, areas", BETTER[direction], help))
    found += [Column(key, TRUTH[key][0], "truth", "higher", TRUTH[key][1]) for key in TRUTH if key in keys]
    found.append(
        Column(SHARE, "on image", "modality share", None, "share of the positive relevance that is on the image")
    )
    return found + [Column(f"cost/{key}", label, "cost", "lower", text) for key, (label, text) in COSTS.items()]


def _charts(measured: Measured, protocol: str) -> list[Chart]:
    found, by_key = [], bands(measured)
    for figure in FIGURES:
        for modality in MODALITIES:
            band = by_key[f"{modality}/{figure}"]
            for i, direction in enumerate(DIRECTIONS):
                curves = [
                    Curve(name, *(_plain(getattr(band, end)[m, i]) for end in ("mean", "low", "high")))
                    for m, name in enumerate(measured.methods)
                ]
                title = f"{modality}, {ORDER[direction]}"
                found.append(Chart(title, figure, named(protocol, modality).shares, tuple(curves), BETTER[direction]))
    return found


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)
