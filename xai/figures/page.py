"""Panels of pictures and coloured words, laid out on a page. Lengths are inches, y grows downwards; words are measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import text_to_path

PICTURE, GAP, MARGIN, TEXT_ONLY, BAR = 2.5, 0.1, 0.2, 5.0, 1.2
HEADER, CHIP, LABEL = 10.0, 9.0, 7.5  # sizes of letters in points
LEADING, CHIP_LEADING, CHIP_HEIGHT, PADDING = 0.2, 0.26, 0.22, 0.05
INK, PALE = "#1f1f1f", "#7d7d7d"
LITERAL: dict[str, Any] = {"parse_math": False, "usetex": False}  # a dollar is a dollar
Colour = tuple[float, float, float]
Word = tuple[str, Colour]
Lines = list[list[tuple[int, str, float]]]  # of each part of a line: number of its word, letters, x


@dataclass(frozen=True)
class Outline:
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 in the picture's pixels
    colour: Colour
    width: float  # points


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray  # [height, width, 3], 0 to 1
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Pictures side by side, a header over them, and beneath them texts of words with their colours."""

    header: str
    pictures: tuple[Picture, ...]
    texts: tuple[tuple[Word, ...], ...] = ()

    @property
    def width(self) -> float:
        return len(self.pictures) * (PICTURE + GAP) - GAP if self.pictures else TEXT_ONLY


@dataclass(frozen=True)
class Scale:
    """Colours of shares from `low` to 1, and what the ends mean."""

    colour: Callable[[np.ndarray], np.ndarray]
    low: float
    ends: tuple[str, str]


def page(rows: Sequence[Sequence[Panel]], scale: Scale, note: str = "") -> Figure:
    """Panels of one column are equally wide, those of one row equally high; note and scale stand below."""
    columns = [max(row[i].width for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    heights = [_heights(row) for row in rows]
    width = 2 * MARGIN + sum(columns) + 2 * GAP * (len(columns) - 1)
    notes = flow(note.split(), width - 2 * MARGIN, LABEL)
    below = MARGIN + sum(map(sum, heights))
    height = below + LEADING * (len(notes) + 1) + MARGIN
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    top = MARGIN
    for row, parts in zip(rows, heights, strict=True):
        left = MARGIN
        for panel, column in zip(row, columns, strict=False):
            _draw(axes, panel, left, top, parts)
            left += column + 2 * GAP
        top += sum(parts)
    _draw_lines(axes, notes, MARGIN, below, LABEL, PALE)
    _draw_scale(axes, scale, MARGIN, height - MARGIN - LEADING / 2)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def _heights(row: Sequence[Panel]) -> tuple[float, float, float]:
    """Returns the heights of headers, pictures and texts with the space below them."""
    header = LEADING * max(len(flow(panel.header.split(), panel.width, HEADER)) for panel in row)
    picture = max((_size(picture)[1] + GAP for panel in row for picture in panel.pictures), default=0.0)
    texts = max(sum(CHIP_LEADING * len(lines) for lines in _lines(panel)) for panel in row)
    return header, picture, texts + 2 * GAP


def _size(picture: Picture) -> tuple[float, float]:
    """Returns width and height, as large as fits the square."""
    height, width, _ = picture.pixels.shape
    scale = PICTURE / max(height, width)
    return scale * width, scale * height


def flow(words: Sequence[str], room: float, size: float, padding: float = 0.0) -> Lines:
    """Breaks words into lines no wider than `room`; a word that is wider itself is broken."""
    lines: Lines = []
    space, x = width_of(" ", size), 0.0
    for number, word in enumerate(words):
        for part in _fitting(word, room - 2 * padding, size):
            wide = width_of(part, size) + 2 * padding
            if not lines or x + wide > room:
                lines.append([])
                x = 0.0
            lines[-1].append((number, part, x))
            x += wide + space
    return lines


@lru_cache(maxsize=4096)
def width_of(text: str, size: float) -> float:
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def _fitting(word: str, room: float, size: float) -> Iterator[str]:
    while width_of(word, size) > room and len(word) > 1:
        keep = max(n for n in range(1, len(word)) if n == 1 or width_of(word[:n], size) <= room)
        yield word[:keep]
        word = word[keep:]
    yield word


def _lines(panel: Panel) -> list[Lines]:
    return [flow([word for word, _ in text], panel.width, CHIP, PADDING) for text in panel.texts]


def _draw(axes: Axes, panel: Panel, left: float, top: float, heights: tuple[float, float, float]) -> None:
    header, picture, _ = heights
    lines = flow(panel.header.split(), panel.width, HEADER)
    _draw_lines(axes, lines, left, top + header - LEADING * len(lines), HEADER, INK)  # the last stands on the picture
    top += header
    for i, shown in enumerate(panel.pictures):
        _draw_picture(axes, shown, left + i * (PICTURE + GAP), top, picture - GAP)
    top += picture
    for text, rows in zip(panel.texts, _lines(panel), strict=True):
        for row in rows:
            for number, part, x in row:
                _draw_chip(axes, part, text[number][1], left + x, top)
            top += CHIP_LEADING


def _draw_picture(axes: Axes, picture: Picture, left: float, top: float, room: float) -> None:
    """Draws a picture in the middle of its column and of the row's height."""
    width, height = _size(picture)
    left, top = left + (PICTURE - width) / 2, top + (room - height) / 2
    axes.imshow(picture.pixels, extent=(left, left + width, top + height, top), aspect="auto")
    scale = width / picture.pixels.shape[1]
    for outline in picture.outlines:
        x1, y1, x2, y2 = (scale * corner for corner in outline.corners)
        axes.add_patch(
            Rectangle(
                (left + x1, top + y1), x2 - x1, y2 - y1, fill=False, edgecolor=outline.colour, linewidth=outline.width
            )
        )


def _draw_chip(axes: Axes, letters: str, colour: Colour, left: float, top: float) -> None:
    wide = width_of(letters, CHIP) + 2 * PADDING
    style = "round,pad=0,rounding_size=0.04"
    axes.add_patch(FancyBboxPatch((left, top), wide, CHIP_HEIGHT, boxstyle=style, facecolor=colour, edgecolor="none"))
    dark = np.dot(colour, (0.2126, 0.7152, 0.0722)) < 0.45
    place = (left + wide / 2, top + 0.7 * CHIP_HEIGHT)
    axes.text(*place, letters, size=CHIP, color="white" if dark else INK, ha="center", va="baseline", **LITERAL)


def _draw_lines(axes: Axes, lines: Lines, left: float, top: float, size: float, colour: str) -> None:
    for i, line in enumerate(lines):
        text = " ".join(part for _, part, _ in line)
        axes.text(left, top + (i + 0.65) * LEADING, text, size=size, color=colour, va="baseline", **LITERAL)


def _draw_scale(axes: Axes, scale: Scale, left: float, y: float) -> None:
    low, high = scale.ends
    start = left + width_of(low, LABEL) + GAP
    colours = scale.colour(np.linspace(scale.low, 1, 256)[None])
    axes.imshow(colours, extent=(start, start + BAR, y + 0.05, y - 0.05), aspect="auto")
    for x, end in ((left, low), (start + BAR + GAP, high)):
        axes.text(x, y, end, size=LABEL, color=PALE, va="center_baseline", **LITERAL)
