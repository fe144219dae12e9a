"""A picture of what a model answers."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from clipmapper.data.images import load_image
from clipmapper.data.vqa import Questions
from xai.files import replacing

COLUMNS, ROWS = 6, 2


def save_gallery(path: Path, questions: Questions, answers: Mapping[int, str]) -> None:
    """Questions from all over the split with their image and answer; wrong answers in red, with the right one."""
    rows = sorted(answers)
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(COLUMNS * ROWS, len(rows))).astype(int)]
    figure = Figure(figsize=(2.1 * COLUMNS, 2.75 * ROWS), layout="constrained")
    grid = figure.subplots(ROWS, COLUMNS, squeeze=False).ravel()
    for axes, row in zip(grid, chosen, strict=False):
        record = questions.records[row]
        axes.imshow(np.asarray(load_image(questions.source(row))))
        right = record["answer"] in ("", answers[row])
        axes.set_title(plain(fill(record["question"], 26)), fontsize=8)
        verdict = answers[row] if right else f"{answers[row]} (right: {record['answer']})"
        axes.set_xlabel(plain(fill(verdict, 26)), fontsize=9, color="black" if right else "firebrick")
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def plain(text: str) -> str:
    """`text` as matplotlib shows it letter by letter, without reading dollars as mathematics."""
    return text.replace("$", r"\$")
