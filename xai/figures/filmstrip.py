"""Captions drawn word by word: strips with the image and a map of every word."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from PIL import Image

from xai.figures.geometry import Geometry, Size
from xai.figures.render import compare
from xai.files import replacing

if TYPE_CHECKING:
    from xai.results.captions import CaptionRelevance

DOTS = 75  # an inch
ACROSS = 10  # words of a strip; a longer caption goes on below


def save_filmstrip(
    relevance: "CaptionRelevance",
    path: Path,
    images: Sequence[Any] | None = None,
    geometry: Callable[[Size], Geometry] | None = None,
) -> None:
    """Writes a PNG of all captions' strips, one below the other.

    Raises ValueError if images and captions are not equally many.
    """
    if images is not None and len(images) != len(relevance.tokens):
        raise ValueError(
            f"{len(images)} images for {len(relevance.tokens)} captions; give one for each, in their order"
        )
    captions = range(len(relevance.tokens))
    write_stacked(
        [f for i in captions for f in strips(relevance, i, None if images is None else images[i], geometry)], path
    )


def write_stacked(figures: Sequence[Figure], path: Path) -> None:
    """Writes a PNG of figures, one below the other."""
    pictures = [_drawn(figure) for figure in figures]
    page = Image.new("RGB", (max(strip.width for strip in pictures), sum(strip.height for strip in pictures)), "white")
    top = 0
    for strip in pictures:
        page.paste(strip, (0, top))
        top += strip.height
    with replacing(path) as temporary:
        page.save(temporary, format="PNG")


def strips(
    relevance: "CaptionRelevance",
    caption: int,
    image: Any = None,
    geometry: Callable[[Size], Geometry] | None = None,
) -> list[Figure]:
    """Draws one caption: its image, and beside it each word's map over the words before it; every map has a scale of its own."""
    title, words = relevance.texts[caption], relevance.each_word(caption)
    images = None if image is None else [image]
    return [compare(words[i : i + ACROSS], images, geometry, [title]) for i in range(0, len(words), ACROSS)]


def _drawn(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS)
    return Image.open(file).convert("RGB")
