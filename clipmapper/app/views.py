"""What the page's script draws, as plain values: text of users and models goes into the page as text, never as markup."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from clipmapper.app.asked import Explained, Request, Stage
from clipmapper.images import png
from xai.figures.geometry import Geometry, Size, upsample
from xai.figures.render import pixels
from xai.metrics.protocols import SCHEDULES
from xai.report.build import SIDE, as_json, asset, data_url, heat, shown
from xai.report.data import Sample

SCRIPTS = ("elements.js", "heat.js", "pointing.js", "gallery.js", "charts.js")  # of reports
STRIP = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)  # shares at which the picture is shown
SMALL = 160  # pixels of a picture in the strip
STRIPES, PALE = (0.92, 0.80), 0.7  # greys of removed patches; how much paler what the model does not see is
HERE = Path(__file__).parent


def script() -> str:
    """Returns the script of the page's two views: functions of the reports, and what is the page's own."""
    own = (HERE / "page.js").read_text(encoding="utf-8")
    return "\n".join([*map(asset, SCRIPTS), own])


def style() -> str:
    """Returns the style of reports within the views alone, then the page's own."""
    report = asset("report.css").replace(":root", "&").replace("color-scheme: light dark;", "")
    return f".view {{\n{report}\n}}\n" + (HERE / "page.css").read_text(encoding="utf-8")


def notice(sentence: str) -> str:
    """Returns the view of a sentence in the place of an answer."""
    return as_json({"notice": sentence})


def answer_view(request: Request, found: Explained, geometry: Callable[[Size], Geometry]) -> str:
    """Returns the view of what a model said and why.

    Args:
        request: what was asked.
        found: what was found.
        geometry: from an image's size to where it went in the model's preprocessing.
    """
    window = geometry((request.image.height, request.image.width)).shares()
    sample = Sample(
        id="",
        image=png(to_show(request.image, SIDE)),
        question=request.question or found.said,
        answer="",
        prediction=found.said,
        right=None,
        answer_type="",
        explanations=found.explanations,
        window=window,
    )
    values = {
        "sample": shown(sample),
        "asks": bool(request.question),
        "cut": is_cut(request.question, found),
        "target": found.target,
        "answers": found.answers,
        "errors": found.errors,
        "heat": heat(),
    }
    return as_json(values)


def is_cut(question: str, found: Explained) -> bool:
    """Returns whether a model read a part of the question alone: its words have fewer letters, by more than cleaning takes."""
    read = [sum(len(word) for word, _ in shown.words) for shown in found.explanations.values()]
    return bool(read) and max(read) < 0.8 * len(question.replace(" ", ""))


def removal_view(
    request: Request,
    found: Explained,
    past: Sequence[Stage],
    pictures: Sequence[Sequence[str]],
    total: int,
) -> str:
    """Returns the view of what was removed so far.

    Args:
        request: what was asked.
        found: what was found.
        past: the stages so far.
        pictures: of each of them that is in the strip the data URLs of the picture, in both directions.
        total: how many stages there will be.
    """
    drawn = [stage for stage in past if stage.share in STRIP]
    rest = [None] * (total - len(past))
    charts = [
        {
            "title": f"{name} relevant first",
            "curves": [
                {"method": method, "mean": [*(s.values[method][d] for s in past), *rest]}
                for method in found.explanations
            ],
            "strip": [
                {"share": stage.share, "picture": urls[d], "said": stage.said[d]}
                for stage, urls in zip(drawn, pictures, strict=True)
            ],
        }
        for d, name in enumerate(("most", "least"))
    ]
    asks = bool(request.question)
    target = found.target.partition(" rather than ")[0]
    values = {
        "shares": _all_shares(past, total),
        "figure": f"probability of “{target}”" if asks else "log-probability of the caption",
        "probability": asks,
        "charts": charts,
        "by": next(iter(found.explanations)),
        "done": not rest,
    }
    return as_json(values)


def strip_pictures(image: Image.Image, stage: Stage, geometry: Callable[[Size], Geometry]) -> list[str]:
    """Returns the picture without the patches that are removed, in both directions, as data URLs."""
    small = to_show(image, SMALL)
    return [data_url(without_patches(small, kept, geometry)) for kept in stage.kept]


def without_patches(image: Image.Image, kept: Tensor, geometry: Callable[[Size], Geometry]) -> Image.Image:
    """Returns an image with stripes in the place of the patches that are not kept.

    Args:
        image: of any size.
        kept: [rows, columns].
        geometry: from an image's size to where it went in the model's preprocessing.
    """
    array = pixels(image)
    height, width = array.shape[:2]
    there = upsample(kept.double(), geometry((height, width)), mode="nearest").numpy()[..., None]
    down, across = np.indices((height, width))
    stripes = np.where((down + across) // 5 % 2, *STRIPES)[..., None]
    left = np.where(there > 0, array, stripes)
    left = np.where(np.isnan(there), (1 - PALE) * array + PALE, left)
    return Image.fromarray((255 * left).round().astype(np.uint8))


def to_show(image: Image.Image, side: int) -> Image.Image:
    """Returns an image whose longer side has so many pixels, one of few pixels magnified."""
    scale = side / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _all_shares(past: Sequence[Stage], total: int) -> list[float]:
    shares = next(shares for shares in SCHEDULES.values() if len(shares) == total and shares[0] == past[0].share)
    return list(shares)
