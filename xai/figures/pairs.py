"""Pictures of pairs: the strongest as lines between a picture's patches and words, and a map of the patches for each word."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from xai.figures.filmstrip import ACROSS, write_stacked
from xai.figures.geometry import squash
from xai.figures.page import INK, LITERAL, MARGIN, PICTURE, width_of
from xai.figures.render import GeometryOf, compare, label, pixels
from xai.results.words import merge_pieces

if TYPE_CHECKING:
    from xai.results.relevance import Relevance

LINES = 16  # pairs of a drawing: more cannot be told apart
FAINT = 0.1  # pairs below this share of the strongest are not drawn
THICK = 3.5  # points of the strongest pair's line
ROOM, LINE, SIZE = 1.6, 0.28, 10.0  # inches between picture and words, and of a line; points of letters
BESIDE = 0.6  # how much of the picture is moved to white


def save_pairs(
    relevance: "Relevance",
    path: Path,
    images: Sequence[Any] | None,
    geometry: GeometryOf | None,
    first: str,
    second: str,
) -> None:
    """Writes a PNG of all samples, one below the other: lines between words and patches, then each word's patches."""
    count = len(relevance.between(first, second))
    if images is not None and len(images) != count:
        raise ValueError(f"{len(images)} images for {count} samples; give one for each, in their order")
    figures = []
    for sample in range(count):
        image = None if images is None else images[sample]
        words = words_of(relevance, sample, first, second)
        figures.append(drawing(words, image, geometry, second))
        shown = None if image is None else [image]
        titled = [
            replace(word, method=word.target or "", options={}, target=None) for word in words
        ]  # by the word alone
        figures += [compare(titled[i : i + ACROSS], shown, geometry) for i in range(0, len(titled), ACROSS)]
    write_stacked(figures, path)


def words_of(relevance: "Relevance", sample: int, first: str = "text", second: str = "image") -> list["Relevance"]:
    """Returns the relevance of patches for each word of a sample, the sum over the word's pieces; the word is its target.

    Raises ValueError for patches without a grid.
    """
    relevance = relevance.rows([sample])
    relevance.map(second)  # there is a grid
    values, part, patches = relevance.between(first, second)[0], relevance[first], relevance[second]
    content = part.content[0].tolist()
    names = [str(i) for i in range(1, len(content) + 1)] if part.words is None else part.words[0]
    pieces = [name if there else None for name, there in zip(names, content, strict=False)]
    return [
        replace(
            relevance,
            modalities={second: replace(patches, scores=values[places].sum(dim=0, keepdim=True))},
            target=" ".join(word.split()) or "…",
            pairs=None,
        )
        for word, places in merge_pieces(pieces)
    ]


def drawing(words: Sequence["Relevance"], image: Any, geometry: GeometryOf | None, modality: str = "image") -> Figure:
    """Draws the strongest pairs as lines between patches and words: red speaks for the target, blue against it."""
    maps = torch.stack([word.map(modality)[0] for word in words]).double().cpu()  # [words, rows, columns]
    array = np.ones((1, 1, 3)) if image is None else pixels(image)
    size = array.shape[:2]
    left, top, wide, high = (squash(size, size) if geometry is None else geometry(size)).shares()
    height = max(PICTURE, LINE * len(words))
    names = [word.target or "" for word in words]
    across = PICTURE * size[1] / max(size)
    down = PICTURE * size[0] / max(size)
    whole = 2 * MARGIN + across + ROOM + max(width_of(name, SIZE) for name in names) + MARGIN
    figure = Figure(figsize=(max(whole, 5.0), 2 * MARGIN + LINE + height), dpi=150, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0))
    start = MARGIN + LINE
    axes.text(MARGIN, MARGIN, _title(words[0]), size=SIZE, color=INK, va="top", **LITERAL)
    axes.imshow(BESIDE + (1 - BESIDE) * array, extent=(MARGIN, MARGIN + across, start + down, start), aspect="auto")
    at = start + (torch.arange(len(words)) + 0.5) * height / len(words)
    for name, y in zip(names, at.tolist(), strict=True):
        axes.text(MARGIN + across + ROOM, y, name, size=SIZE, color=INK, va="center", **LITERAL)
    rows, columns = maps.shape[1:]
    for word, row, column, share in strongest(maps):
        x = MARGIN + across * (left + wide * (column + 0.5) / columns)
        y = start + down * (top + high * (row + 0.5) / rows)
        colour = matplotlib.colormaps["RdBu_r"](0.5 + 0.4 * np.sign(share))[:3]
        ends = (x, MARGIN + across + ROOM - 0.05), (y, float(at[word]))
        axes.plot(
            *ends, color=colour, linewidth=THICK * abs(share), alpha=0.35 + 0.6 * abs(share), solid_capstyle="round"
        )
        axes.plot(x, y, "o", color=colour, markersize=2 + 2 * abs(share))
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0), aspect="auto")
    return figure


def strongest(maps: Tensor) -> list[tuple[int, int, int, float]]:
    """Returns word, row, column and share of the largest of the strongest pairs of maps, weak ones first."""
    flat = maps.flatten()
    order = flat.abs().argsort(descending=True)[:LINES].flip(0)
    largest = flat.abs().max()
    found = [(int(i), float(flat[i] / largest)) for i in order if largest > 0 and flat[i].abs() >= FAINT * largest]
    rows, columns = maps.shape[1:]
    return [(i // (rows * columns), i // columns % rows, i % columns, share) for i, share in found]


def _title(word: "Relevance") -> str:
    return f"strongest pairs: {label(replace(word, target=None))}"
