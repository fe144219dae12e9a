"""Captions drawn word by word: a strip for each, with the image and a map of every word."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from PIL import Image

from xai.files import replacing
from xai.geometry import Geometry, Size
from xai.render import compare

if TYPE_CHECKING:
    from xai.captions import CaptionRelevance

DOTS = 75  # an inch: a strip is as wide as its caption is long


def save_filmstrip(
    relevance: "CaptionRelevance",
    path: Path,
    images: Sequence[Any] | None = None,
    geometry: Callable[[Size], Geometry] | None = None,
) -> None:
    """A PNG of one strip below the other. Raises ValueError if images and captions are not equally many."""
    if images is not None and len(images) != len(relevance.tokens):
        raise ValueError(
            f"{len(images)} images for {len(relevance.tokens)} captions; give one for each, in their order"
        )
    strips = [
        _drawn(strip(relevance, caption, None if images is None else images[caption], geometry))
        for caption in range(len(relevance.tokens))
    ]
    page = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for drawn in strips:
        page.paste(drawn, (0, top))
        top += drawn.height
    with replacing(path) as temporary:
        page.save(temporary, format="PNG")


def strip(
    relevance: "CaptionRelevance",
    caption: int,
    image: Any = None,
    geometry: Callable[[Size], Geometry] | None = None,
) -> Figure:
    """One caption: its image, and beside it each word's map, over the words before it; every map has a scale of its own."""
    title = " ".join(relevance.words[caption])
    return compare(relevance.each_word(caption), None if image is None else [image], geometry, [title])


def _drawn(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS)
    return Image.open(file).convert("RGB")
