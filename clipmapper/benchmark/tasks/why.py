"""Questions and methods side by side: where each method looks, and where it should."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from clipmapper.benchmark.measure import RANDOM, explain_batch
from clipmapper.benchmark.summary import INVERTED
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.data.shapes.truth import Corners, Span
from clipmapper.images import load_image
from xai.figures.render import compare, save

QUESTIONS, METHODS = 6, 5  # rows and columns


def save_why(task: AnswersTask, samples: Mapping[str, Sequence[Any]], metrics: Mapping[str, Any], path: Path) -> bool:
    """Draws a row for each question and a column for each of the methods whose relevance falls most on the objects.

    The objects that decide are outlined, and the words that decide stand in brackets.

    Args:
        task: the benchmark, of data with a ground truth.
        samples: the columns of its samples.
        metrics: what `summary.summarise` made of it.
        path: the PNG file.

    Returns:
        False where no method works, or no question has an object that decides: nothing is drawn then.
    """
    assert task.truth is not None
    entries = {n: e["metrics"]["image/mass"]["mean"] for n, e in metrics["methods"].items() if not e["error"]}
    methods = [n for n, mean in entries.items() if mean is not None and n != RANDOM and not n.endswith(INVERTED)]
    best = sorted(methods, key=lambda name: -entries[name])[:METHODS]
    rows = question_rows(samples, [bool(task.truth.outlines(key)) for key in samples["question_id"]])
    if not rows or not best:
        return False
    batch = task.batch(rows)
    explained = explain_batch(task, batch, best)
    words = explained.recorded.words  # type: ignore[attr-defined]
    columns = task.samples(batch, explained)
    pictures = [load_image(task.questions.source(row)) for row in columns["data_row"]]
    lines = zip(columns["question_id"], columns["question"], columns["predicted"], strict=True)
    titles = [f"{marked(question, task.truth.words(key))} {answer}" for key, question, answer in lines]
    relevances = [replace(relevance.with_words(words), target=None) for relevance in explained.shown.values()]
    figure = compare(relevances, pictures, titles=titles)
    outline(figure, [task.truth.outlines(key) for key in columns["question_id"] for _ in range(1 + len(relevances))])
    save(figure, path)
    return True


def question_rows(
    samples: Mapping[str, Sequence[Any]], with_region: Sequence[bool], count: int = QUESTIONS
) -> list[int]:
    """Returns rows of questions that have a region, each of another type as long as there are any."""
    seen: dict[str, int] = {}
    turns = []  # how many of its type came before
    for kind, row, shown in zip(samples["question_type"], samples["row"], with_region, strict=True):
        if shown:
            turns.append((seen.setdefault(kind, 0), row))
            seen[kind] += 1
    return [row for _, row in sorted(turns)[:count]]


def outline(figure: Figure, things: Sequence[Sequence[Corners]]) -> None:
    """Draws outlines over the pictures of a page, in the order of the pictures; the scale of colours comes after them."""
    for axes in figure.axes:
        for picture, corners in zip(axes.images, things, strict=False):
            left, right, bottom, top = picture.get_extent()
            for shape in corners:
                placed = shape * (right - left, bottom - top) + (left, top)
                axes.add_patch(Polygon(placed, fill=False, edgecolor="black", linewidth=1.2))


def marked(question: str, spans: Sequence[Span]) -> str:
    """Returns the question with brackets around its deciding words."""
    for start, stop in sorted(spans, reverse=True):
        question = f"{question[:start]}[{question[start:stop]}]{question[stop:]}"
    return question
