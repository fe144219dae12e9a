"""A picture of what a model answers, or writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from clipmapper.data.captions import Captions
from clipmapper.data.vqa import Questions
from clipmapper.images import load_image
from xai.files import replacing

COLUMNS, ROWS = 6, 2


@dataclass(frozen=True)
class Cell:
    """An image with what stands above and below it; what is not `right` is red."""

    image: Image.Image
    above: str
    below: str
    right: bool = True


def save_gallery(path: Path, questions: Questions, answers: Mapping[int, str]) -> None:
    """Questions from all over the split with their image and answer; wrong answers in red, with the right one."""
    cells = []
    for row in spread(answers):
        record = questions.records[row]
        right = record["answer"] in ("", answers[row])
        verdict = answers[row] if right else f"{answers[row]} (right: {record['answer']})"
        cells.append(Cell(load_image(questions.source(row)), record["question"], verdict, right))
    save_grid(path, cells)


def save_captions(path: Path, split: Captions, captions: Mapping[int, str]) -> None:
    """Images from all over the split with their caption above and one that was given below."""
    cells = [
        Cell(load_image(split.source(row)), captions[row], f"given: {split.references(row)[0]}")
        for row in spread(captions)
    ]
    save_grid(path, cells)


def spread(rows: Iterable[int]) -> list[int]:
    """Returns as many of the rows as there is space for."""
    ordered = sorted(rows)
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, min(COLUMNS * ROWS, len(ordered))).astype(int)]


def save_grid(path: Path, cells: Sequence[Cell]) -> None:
    figure = Figure(figsize=(2.1 * COLUMNS, 2.75 * ROWS), layout="constrained")
    grid = figure.subplots(ROWS, COLUMNS, squeeze=False).ravel()
    for axes, cell in zip(grid, cells, strict=False):
        axes.imshow(np.asarray(cell.image))
        axes.set_title(plain(lines(cell.above)), fontsize=8)
        axes.set_xlabel(plain(lines(cell.below)), fontsize=9, color="black" if cell.right else "firebrick")
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def lines(text: str) -> str:
    """`text` as there is space for it, with an ellipsis where it goes on."""
    return fill(text, 26, max_lines=5, placeholder=" …")


def plain(text: str) -> str:
    """`text` as matplotlib shows it letter by letter, without reading dollars as mathematics."""
    return text.replace("$", r"\$")
