"""What is in the file of a report."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xai.figures.render import colours
from xai.report.build import page, write_report
from xai.report.data import Explanation, Figure, Report, Row, Step, Table

from .values import GAINS, HOSTILE, picture, png, sample, small_report


class Outline(HTMLParser):
    """The tags of a page with their attributes, and the text in style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("style", "script") and data.strip():
            self.inline.append((self.tags[-1][0], data))


@pytest.fixture(scope="module")
def outline() -> Outline:
    return Outline(page(small_report()))


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_names_no_other_file(outline: Outline) -> None:
    assert not [attributes for _, attributes in outline.tags if {"src", "href"} & attributes.keys()]
    texts = " ".join(text for _, text in outline.inline)
    addresses = set(re.findall(r"https?://[^\s\"'`]*|@import|url\(", texts))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody opens


def test_text_from_data_is_in_the_data_block_only(outline: Outline) -> None:
    assert sum(tag == "script" for tag, _ in outline.tags) == 2
    assert not [tag for tag, _ in outline.tags if tag == "img"]
    text = page(small_report())
    assert HOSTILE[:16] not in text and "<!--" not in text
    shown = data_of(text)
    assert shown["title"] == f"Report {HOSTILE}"
    assert shown["gallery"][0]["question"] == f"is this {HOSTILE}?"
    assert shown["further"][0]["table"]["rows"][1]["figures"] == {"rank": {"mean": 1, "low": None, "high": None}}


def test_the_policy_admits_this_style_and_script_alone(outline: Outline) -> None:
    policy = next(attributes["content"] for _, attributes in outline.tags if "http-equiv" in attributes)
    texts = {"style-src": outline.inline[0][1], "script-src": outline.inline[-1][1]}
    hashes = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in texts.items()}
    rules = dict(rule.split(maxsplit=1) for rule in str(policy).split("; "))
    assert rules == {
        "default-src": "'none'", "img-src": "data:", **{name: f"'sha256-{found}'" for name, found in hashes.items()}
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_the_old_file_stays(tmp_path: Path, value: float) -> None:
    (tmp_path / "report.html").write_text("old")
    report = replace(small_report(), tables=(Table("all", 1, (Row("wra", {"srg": Figure(value)}),)),))
    with pytest.raises(ValueError, match="give None for what is undefined"):
        write_report(report, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_small_images_are_kept_exactly_and_large_ones_scaled_down() -> None:
    small, large = sample(0), replace(sample(1), image=png(picture(1, 300, 640)))
    shown = data_of(page(replace(small_report(), gallery=(small, large))))["gallery"]
    images = [Image.open(BytesIO(base64.b64decode(found["image"].split(",")[1]))) for found in shown]
    assert np.array_equal(np.asarray(images[0]), picture(0))
    assert images[1].size == (320, 150)
    assert {image.format for image in images} == {"WEBP"}


def test_scores_keep_four_digits() -> None:
    found = Explanation(((1.23456789e-7, -98765.4),), (("a", 2 / 3),))
    report = replace(small_report(), gallery=(replace(sample(0), explanations={"wra": found}),))
    shown = data_of(page(report))["gallery"][0]["explanations"]["wra"]
    assert shown["patches"] == [[1.235e-7, -98770.0]]
    assert shown["words"] == [["a", 0.6667]]


def test_words_of_captions_keep_four_digits_too() -> None:
    step = Step(((1.23456e-7,),), (1 / 3,))
    found = Explanation(((1.0,),), (("a", 1.0),), steps=(step,))
    report = replace(small_report(), gallery=(replace(sample(0), explanations={"wra": found}),), kind="captions")
    shown = data_of(page(report))
    assert shown["kind"] == "captions"
    assert shown["gallery"][0]["explanations"]["wra"]["steps"] == [{"patches": [[1.235e-7]], "scores": [0.3333]}]


def test_colours_are_those_of_render() -> None:
    heat = data_of(page(small_report()))["heat"]
    shares = np.linspace(-1, 1, len(heat["colours"]))
    assert np.abs(np.array(heat["colours"]) / 255 - colours(shares)).max() <= 0.5 / 255 + 1e-9


def test_forty_samples_of_twelve_methods_stay_below_six_megabytes() -> None:
    patches = tuple(tuple(row) for row in np.random.default_rng(0).normal(size=(14, 14)).tolist())
    explanations = {
        f"method {i}": Explanation(patches, tuple((f"word{i}", 1 / 3) for i in range(14))) for i in range(12)
    }
    photographs = [np.kron(picture(i, 30, 40), np.ones((8, 8, 1), np.uint8)) for i in range(40)]
    gallery = tuple(replace(sample(0), image=png(photo), explanations=explanations) for photo in photographs)
    assert len(page(replace(small_report(), gallery=gallery))) < 6e6


def test_a_report_may_have_tables_alone() -> None:
    report: Report = replace(small_report(), charts=(), gallery=())
    shown = data_of(page(report))
    assert (shown["charts"], shown["gallery"]) == ([], [])
    assert [row["method"] for row in shown["tables"][0]["rows"]][: len(GAINS)] == list(GAINS)
