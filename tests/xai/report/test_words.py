"""The page of words: what is in its file, and what a browser shows of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser

from xai.results.captions import CaptionRelevance, average

from ..conftest import relevance_of
from .test_browser import opened
from .values import HOSTILE, picture


def relevance(hostile: str = HOSTILE) -> CaptionRelevance:
    """Of two texts, "一只" and "a <hostile>", with two images each and a prompt; the map of word k is at patch k alone."""
    image = torch.eye(4).double()
    text = torch.tensor([[0, 0], [2, 0], [0, 0], [-3, 0]]).double()
    prompt = torch.tensor([[1, 0], [0, 1], [1, 1], [torch.nan, 0]]).double()
    true = torch.ones(4, 2, dtype=torch.bool)
    read = torch.tensor([[False, False], [True, False]] * 2)
    whole = torch.ones(4, 4, dtype=torch.bool)
    masks = {"image": whole, "image 2": whole, "prompt": true, "text": read}
    steps = relevance_of(
        {"image": image, "image 2": image.flip(1), "prompt": prompt, "text": text},
        masks,
        {name: ~torch.ones_like(mask) for name, mask in masks.items()},
        {"image": (2, 2), "image 2": (2, 2)},
    )
    steps = steps.with_words([[f"▁{hostile}", "▁now"]] * 4, "prompt").with_words(
        [["▁一", "▁只"]] * 2 + [["▁a", "▁b"]] * 2
    )
    tokens = (("▁一", "▁只"), ("▁a", f"▁{hostile}"))
    seen = {name: torch.from_numpy(picture(i)).movedim(-1, 0) for i, name in enumerate(("image", "image 2"))}
    return CaptionRelevance(steps, tokens, (average(2), average(2)), ((0, 1), (0, 1)), (seen, seen))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.html"
    relevance().save_page(path, title=f"Words {HOSTILE}")
    return path


def test_text_from_data_is_in_the_data_block_only(file: Path) -> None:
    text = file.read_text()
    assert HOSTILE[:16] not in text and "<!--" not in text and text.count("<script") == 2
    assert not re.search(r"(src|href)=", text.split("<script")[0])
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert data["title"] == f"Words {HOSTILE}" and data["captions"][1]["prompt"][0]["word"] == " ".join(
        HOSTILE.split(" ")
    )
    first, second = data["captions"]
    assert [word["blank"] for word in first["words"]] == [False, False]
    assert [word["blank"] for word in second["words"]] == [False, True]
    assert first["maps"][1] == {
        "images": [[[0, 1], [0, 0]], [[0, 0], [1, 0]]],
        "prompt": [0, 1],
        "text": [2, 0],
        "shares": {"image": 0.4, "prompt": 0.2, "text": 0.4},
    }
    assert second["maps"][1]["prompt"] == [0, 0] and second["maps"][1]["shares"]["image"] is None  # undefined


def test_whoever_points_at_a_word_sees_its_map(browser: Browser, file: Path) -> None:
    pages = opened(browser, file)
    page = next(pages)
    assert page.locator("h1").text_content() == f"Words {HOSTILE}"
    first, second = page.locator("article").all()
    assert first.locator("h3").text_content() == "一只" and second.locator("h3").text_content() == f"a {HOSTILE}"

    def reddest(canvas: int) -> list[int]:
        script = """canvas => {
            const { width, height } = canvas, { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            const sums = [0, 0, 0, 0];
            for (let i = 0; i < data.length; i += 4) {
                const x = (i / 4) % width, y = Math.floor(i / 4 / width);
                sums[2 * (y >= height / 2) + (x >= width / 2)] += data[i] - data[i + 2];
            }
            return sums;
        }"""
        page.wait_for_timeout(100)
        return list(np.argsort(first.locator("canvas").nth(canvas).evaluate(script)))[::-1]

    words = first.locator("h3 .pointable")
    words.nth(1).hover()
    assert reddest(0)[0] == 1 and reddest(1)[0] == 2
    assert first.locator(".shares").inner_text().split("\n") == ["image 40 %", "prompt 20 %", "words before 40 %"]
    assert words.nth(1).get_attribute("class") == "pointable pointed"
    words.nth(0).hover()
    assert reddest(0)[0] == 0 and reddest(1)[0] == 3
    assert words.nth(1).get_attribute("class") == "pointable"
    words.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.mouse.move(0, 0)
    assert reddest(0)[0] == 1
    with pytest.raises(StopIteration):
        next(pages)


def test_images_of_ones_own(tmp_path: Path) -> None:
    whole = relevance("cat")
    with pytest.raises(ValueError, match="1 images for 2 captions"):
        whole.save_page(tmp_path / "page.html", [picture(0)])
    whole.save_page(tmp_path / "page.html", [picture(0), picture(1)])
    second = whole.only(1)  # the letters of the first need fonts that are not everywhere
    second.save_filmstrip(tmp_path / "strip.png")
    second.save_overlay(tmp_path / "whole.png")
    assert Image.open(tmp_path / "strip.png").width > Image.open(tmp_path / "whole.png").width / 2 > 300
