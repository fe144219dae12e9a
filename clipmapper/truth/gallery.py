"""Questions and methods side by side: where each method looks, and where it should."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from clipmapper.data.images import load_image
from clipmapper.data.shapes.truth import Corners, Span, Truth
from clipmapper.data.vqa import Questions
from clipmapper.truth.scores import Explained, Measured
from clipmapper.truth.summary import has_region
from xai.figures.render import compare, save


def gallery_rows(measured: Measured, count: int) -> list[int]:
    """Rows of questions that have a region, each of another type as long as there are any."""
    types, rows = measured.records["question_type"], measured.records["row"]
    seen: dict[str, int] = {}
    turns = []  # how many of its type came before
    for kind, row, shown in zip(types, rows, has_region(measured), strict=True):
        if shown:
            turns.append((seen.setdefault(kind, 0), row))
            seen[kind] += 1
    return [row for _, row in sorted(turns)[:count]]


def save_gallery(path: Path, explained: Explained, questions: Questions, truth: Truth) -> None:
    """A row for each question, a column for each method; deciding objects outlined, deciding words in brackets."""
    records = explained.records
    pictures = [load_image(questions.source(row)) for row in records["row"]]
    titles = [
        f"{marked(question, truth.words(key))} {answer}"
        for key, question, answer in zip(records["question_id"], records["question"], records["predicted"], strict=True)
    ]
    relevances = [replace(relevance, target=None) for relevance in explained.relevances.values()]
    figure = compare(relevances, pictures, titles=titles)
    columns = 1 + len(relevances)
    outline(figure, [truth.outlines(key) for key in records["question_id"] for _ in range(columns)])
    save(figure, path)


def outline(figure: Figure, things: Sequence[Sequence[Corners]]) -> None:
    """Draws outlines over the pictures of a page, in the order of the pictures; the scale of colours comes after them."""
    for axes in figure.axes:
        for picture, corners in zip(axes.images, things, strict=False):
            left, right, bottom, top = picture.get_extent()
            for shape in corners:
                placed = shape * (right - left, bottom - top) + (left, top)
                axes.add_patch(Polygon(placed, fill=False, edgecolor="black", linewidth=1.2))


def marked(question: str, spans: Sequence[Span]) -> str:
    """The question with brackets around its deciding words."""
    for start, stop in sorted(spans, reverse=True):
        question = f"{question[:start]}[{question[start:stop]}]{question[stop:]}"
    return question
