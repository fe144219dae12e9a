"""Writes a report's values to one HTML file that holds all it needs and reaches for nothing else.

Text from data is in one place of the file only, the JSON block, and the scripts show it by text nodes and attribute setters.
The page's security policy admits this style and these scripts by their hashes, and no other, and no connections.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from xai.figures.render import HEAT_COVER, LIGHT, colours
from xai.files import replacing
from xai.report.data import Explanation, Report, Rows, Sample, Step

SCRIPTS = ("elements.js", "tables.js", "charts.js", "heat.js", "pointing.js", "gallery.js", "report.js")
BODY = """<main>
<section id="figures" aria-label="Figures"></section>
<section id="further" aria-label="Further tables"></section>
<section id="curves" aria-label="Curves"></section>
<section id="samples" aria-label="Samples"></section>
</main>
<footer id="provenance" aria-label="Protocol and provenance"></footer>"""
SIDE, FINE = 320, 128  # pixels: images are at most so large; images up to so small are kept exactly
DIGITS = 4  # that count, of the scores of tokens


def write_report(report: Report, path: Path) -> None:
    """Writes `report` as one self-contained HTML file, whole or not at all; raises ValueError for NaN and infinity."""
    text = page(report)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(report: Report) -> str:
    """Returns the HTML of a report."""
    gallery = [shown(sample) for sample in report.gallery]
    return assembled("Report", "tables and pictures", BODY, SCRIPTS, {**vars(report), "gallery": gallery})


def shown(sample: Sample) -> dict[str, Any]:
    """Returns a sample's values as the scripts take them: scores rounded, the image as a data URL."""
    return {**vars(_rounded(sample)), "image": _encoded(sample.image)}


def assembled(title: str, drawn: str, body: str, scripts: Sequence[str], values: Mapping[str, Any]) -> str:
    """Returns the HTML of a page with style, scripts and values, to which the colours of heat are added.

    Args:
        title: of the window.
        drawn: what the scripts draw, told where they are off.
        body: the elements that they fill.
        scripts: names of files beside this one.
        values: for the JSON block.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    style, script = asset("report.css"), "\n".join(asset(name) for name in scripts)
    data = as_json({**values, "heat": heat()})
    parts = {"style": style, "style_hash": _hash(style), "script": script, "script_hash": _hash(script), "data": data}
    return Template(asset("page.html")).substitute(parts, title=title, drawn=drawn, body=body)


def asset(name: str) -> str:
    """Returns the text of a script or style beside this file."""
    return files("xai.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Hashes an inline style or script as security policies name it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(values: Mapping[str, Any]) -> str:
    """Returns values as JSON without "<", so that no text in it is markup; raises ValueError for NaN and infinity."""
    try:
        text = json.dumps(values, default=_plain, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError("the report holds a number that is not finite; give None for what is undefined") from error
    return text.replace("<", r"\u003c")  # neither </script> nor <!-- can end or change the block


def _plain(value: Any) -> dict[str, Any]:
    """Dataclasses and mappings as JSON objects."""
    return dict(value) if isinstance(value, Mapping) else vars(value)


def heat() -> dict[str, Any]:
    """Returns what the page draws relevance with, as `xai.figures.render` does: colours of shares -1 to 1, their cover."""
    table = (255 * colours(np.linspace(-1, 1, 129))).round().astype(int).tolist()
    return {"colours": table, "light": LIGHT, "cover": HEAT_COVER}


def _rounded(sample: Sample) -> Sample:
    return replace(
        sample, explanations={name: _short(explanation) for name, explanation in sample.explanations.items()}
    )


def _short(explanation: Explanation) -> Explanation:
    words = tuple((word, rounded(score)) for word, score in explanation.words)
    steps = tuple(Step(_short_rows(step.patches), tuple(map(rounded, step.scores))) for step in explanation.steps)
    return replace(explanation, patches=_short_rows(explanation.patches), words=words, steps=steps)


def _short_rows(patches: Rows) -> Rows:
    return tuple(tuple(map(rounded, row)) for row in patches)


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _encoded(file: bytes) -> str:
    """The data URL of an image file; raises PIL.UnidentifiedImageError for what is no image."""
    return data_url(Image.open(BytesIO(file)).convert("RGB"))


def data_url(image: Image.Image) -> str:
    """Encodes an image as a data URL of WebP, scaled down to SIDE."""
    image.thumbnail((SIDE, SIDE))
    file = BytesIO()
    image.save(file, "webp", quality=85, lossless=max(image.size) <= FINE)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
