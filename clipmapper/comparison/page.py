"""A comparison as the plain data of an HTML report."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipmapper.comparison import published
from clipmapper.comparison.curves import ORDER
from clipmapper.comparison.explained import RANDOM
from clipmapper.comparison.measure import FIGURES, MODALITIES, SHARE, Measured
from clipmapper.comparison.parts import read
from clipmapper.comparison.sanity import DRAWS
from clipmapper.comparison.summary import INVERTED, bands
from clipmapper.data.images import load_image
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.vqa import Questions
from clipmapper.explain.answers import preprocessing
from clipmapper.models.clip import FrozenCLIP
from clipmapper.truth.scores import deciding_tokens, regions
from xai.metrics.protocols import DIRECTIONS, named
from xai.report.data import Chart, Column, Curve, Explanation, Figure, Report, Row, Sample, Section, Table

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
    "megabytes": ("MB", "by which memory rose at most: a GPU's, or on a CPU that of tensors"),
    "forward": ("forward", "forward passes of the whole model"),
    "backward": ("backward", "backward passes of the whole model"),
}
SANITY = {
    "mapper": ("mapper shuffled", "the mapper, its projections and the head"),
    "clip": ("CLIP shuffled", "CLIP"),
}
SANITY_HELP = (
    "rank correlation of the relevance with that after the parameters of {} are shuffled, patches and words together, on "
    f"a few questions; mean over {DRAWS} noisy inputs; near 0 is good. Integrated gradients and SmoothGrad with fewer passes"
)
PUBLISHED: dict[str, tuple[str, Literal["lower"] | None]] = {
    "our_rank": ("our rank", "lower"),
    "published_rank": ("published rank", "lower"),
    "ours": ("our area, %", None),
    "published": ("published area, %", None),
}
DECIDING = "truth"  # shown in the gallery as if it were a method


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
        further=_published(result["published"]),
    )


def gallery(
    parts: Sequence[Path], questions: Questions, clip: FrozenCLIP, truth: Truth | None, count: int = GALLERY
) -> list[Sample]:
    """Questions from all over the comparison with every method's relevance, which the parts hold, and with the truth."""
    columns = ["row", "question_id", "question", "answer", "predicted", "accuracy", "answer_type"]
    columns += ["method", "error", "patches", "words", "word_scores", f"figure/{SHARE}"]
    by_question: dict[int, list[dict[str, Any]]] = {}
    for path in parts:
        for entry in read(path, columns).to_pylist():
            by_question.setdefault(entry["question_id"], []).append(entry)
    ids = list(by_question)
    taken = [ids[i] for i in np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    return [_sample(by_question[key], questions, clip, truth) for key in taken]


def _sample(
    entries: Sequence[Mapping[str, Any]], questions: Questions, clip: FrozenCLIP, truth: Truth | None
) -> Sample:
    first, image = entries[0], load_image(questions.source(entries[0]["row"]))
    png = io.BytesIO()
    image.save(png, "PNG")
    found = {entry["method"]: _explanation(entry, clip.grid) for entry in entries if not entry["error"]}
    if truth:
        found[DECIDING] = _deciding(truth, first, clip.grid)
    return Sample(
        id=str(first["question_id"]),
        image=png.getvalue(),
        question=first["question"],
        answer=first["answer"],
        prediction=first["predicted"],
        right=first["accuracy"] > 0,
        answer_type=first["answer_type"],
        explanations=found,
        window=window(clip, (image.height, image.width)),
    )


def window(clip: FrozenCLIP, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of the patches in an image of a height and a width, as shares of it."""
    placed = preprocessing(clip)(size)
    (top, left), (height, width), (rows, columns) = placed.offset, placed.window, placed.resized
    return left / columns, top / rows, width / columns, height / rows


def _explanation(entry: Mapping[str, Any], grid: tuple[int, int]) -> Explanation:
    patches = np.nan_to_num(np.array(entry["patches"])).reshape(grid)
    words = zip(entry["words"], np.nan_to_num(np.array(entry["word_scores"])).tolist(), strict=True)
    share = entry[f"figure/{SHARE}"]
    return Explanation(tuple(map(tuple, patches.tolist())), tuple(words), share if np.isfinite(share) else None)


def _deciding(truth: Truth, entry: Mapping[str, Any], grid: tuple[int, int]) -> Explanation:
    """How much of each patch decides, and which words do."""
    patches = regions(truth, [entry["question_id"]], grid)[0].tolist()
    spoken = deciding_tokens(truth.words(entry["question_id"]), entry["question"], entry["words"]).tolist()
    return Explanation(tuple(map(tuple, patches)), tuple(zip(entry["words"], spoken, strict=True)))


def _row(name: str, entry: Mapping[str, Any], figures: Mapping[str, Any]) -> Row:
    shown = {key: Figure(**figure) for key, figure in figures.items()}
    shown |= {f"cost/{key}": Figure(entry["cost"].get(key)) for key in COSTS if entry["cost"].get(key) is not None}
    shown |= {f"sanity/{group}": Figure(**figure) for group, figure in entry["sanity"].items()}
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
    for group, (label, what) in SANITY.items():
        found.append(Column(f"sanity/{group}", label, "sanity", "lower", SANITY_HELP.format(what)))
    return found + [Column(f"cost/{key}", label, "cost", "lower", text) for key, (label, text) in COSTS.items()]


def _published(beside: Mapping[str, Any]) -> tuple[Section, ...]:
    """Ranks and figures of ours and of the paper side by side, area by area."""
    if not beside:
        return ()
    columns: list[Column] = []
    figures: defaultdict[str, dict[str, Figure]] = defaultdict(dict)
    for area, part in beside["areas"].items():
        modality, _, direction = area.split("/")
        for key, (label, better) in PUBLISHED.items():
            group = f"{modality}, {ORDER[direction]}"
            columns.append(Column(f"{area}/{key}", label, group, better or BETTER[direction]))
            for name, entry in part["methods"].items():
                figures[name][f"{area}/{key}"] = Figure(entry[key])
    table = Table("all", len(figures), tuple(Row(name, found) for name, found in figures.items()))
    note = f"{published.text(beside)} Of the published figures only the order can be compared."
    return (Section("Beside published figures", note, tuple(columns), table),)


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
