"""Writes texts of a model with the maps of their words to one HTML file, which reaches for nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from xai.figures.geometry import Geometry, Size
from xai.figures.render import ALONE, label, pixels
from xai.files import replacing
from xai.report.build import assembled, data_url, rounded
from xai.results.words import blank_between

if TYPE_CHECKING:
    from xai.results.captions import CaptionRelevance
    from xai.results.relevance import Relevance

SCRIPTS = ("elements.js", "heat.js", "pointing.js", "words.js")
WHOLE = (0.0, 0.0, 1.0, 1.0)  # left, top, width and height of what the model saw of an image


def write_words(
    relevance: "CaptionRelevance",
    path: Path,
    images: Sequence[Any] | None = None,
    geometry: Callable[[Size], Geometry] | None = None,
    title: str = "Word by word",
) -> None:
    """Writes the page, whole or not at all.

    Args:
        relevance: of one or more texts.
        path: of the file.
        images: one for each text, or those of each by modality; None draws patches alone.
        geometry: from an image's size to where it went in preprocessing; None for an image that was resized whole.
        title: of the page.

    Raises:
        ValueError: images and texts are not equally many.
    """
    count = len(relevance.tokens)
    if images is not None and len(images) != count:
        raise ValueError(f"{len(images)} images for {count} captions; give one for each, in their order")
    captions = [
        _caption(relevance.only(number), None if images is None else images[number], geometry)
        for number in range(count)
    ]
    method = label(relevance.steps)
    values = {"title": title, "method": method, "signed": relevance.steps.signed, "captions": captions}
    text = assembled("Word by word", "pictures", "<main></main>", SCRIPTS, values)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _caption(one: "CaptionRelevance", image: Any, geometry: Callable[[Size], Geometry] | None) -> dict[str, Any]:
    """The values of one text: its words, the prompt's, its images, and the map of each word and of the whole."""
    whole, words = one.whole(), one.words[0]
    names = [name for name, part in whole.modalities.items() if part.grid is not None]
    prompt = [word for word, _ in whole.by_word("prompt")[0]] if "prompt" in whole.modalities else []
    between = one.between_words()[0]
    shares = one.shares()[0]
    maps = [
        _map(row, names, between[i], {name: float(share[i]) for name, share in shares.items()})
        for i, row in enumerate(one.each_word())
    ]
    total = {kind: float(share[0]) for kind, share in whole.shares_by_kind().items()}
    return {
        "words": _words(words),
        "prompt": _words(prompt),
        "images": [_image(name, whole, image, geometry) for name in names],
        "maps": maps,
        "whole": _map(whole, names, between.mean(dim=0), total),
    }


def _map(row: "Relevance", names: Sequence[str], text: Tensor, shares: Mapping[str, float]) -> dict[str, Any]:
    prompt = [score for _, score in row.by_word("prompt")[0]] if "prompt" in row.modalities else []
    return {
        "images": [[_numbers(line) for line in row.map(name)[0].tolist()] for name in names],
        "prompt": _numbers(prompt),
        "text": _numbers(text.tolist()),
        "shares": {name: share if np.isfinite(share) else None for name, share in shares.items()},
    }


def _numbers(values: Sequence[float]) -> list[float]:
    """Rounded, with 0 where relevance is undefined."""
    return [rounded(value) if np.isfinite(value) else 0.0 for value in values]


def _words(words: Sequence[str]) -> list[dict[str, Any]]:
    """Each with whether a blank is before it."""
    before = ["", *words]
    return [{"word": word, "blank": blank_between(last, word)} for last, word in zip(before, words, strict=False)]


def _image(name: str, whole: "Relevance", image: Any, geometry: Callable[[Size], Geometry] | None) -> dict[str, Any]:
    shown = image.get(name) if isinstance(image, Mapping) else image
    if shown is None:
        rows, columns = whole.modalities[name].grid or (1, 1)
        cell = max(1, ALONE // max(rows, columns))
        return {
            "name": name,
            "source": data_url(Image.new("RGB", (cell * columns, cell * rows), "white")),
            "window": WHOLE,
            "known": False,
        }
    array = pixels(shown)
    window = WHOLE if geometry is None else geometry((array.shape[0], array.shape[1])).shares()
    return {"name": name, "source": data_url(_large(array)), "window": window, "known": True}


def _large(array: np.ndarray) -> Image.Image:
    """As an image; one of few pixels is magnified, for a map between its patches needs room."""
    image = Image.fromarray((255 * array).round().astype(np.uint8))
    times = max(1, ALONE // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
