"""Pictures of what a model answers."""

from pathlib import Path

import pytest
from PIL import Image

from clipmapper.evaluation.gallery import Cell, lines, save_grid


def test_what_is_short_stays_whole() -> None:
    text = "How many objects are left of the large red circle at the bottom?"
    assert lines(text).split() == text.split()


@pytest.mark.parametrize("text", ["word " * 10_000, "w" * 10_000], ids=["words", "letters"])
def test_long_texts_are_cut(tmp_path: Path, text: str) -> None:
    cut = lines(text)
    assert cut.endswith("…") and cut.count("\n") == 4 and max(map(len, cut.split("\n"))) <= 26
    image = Image.new("RGB", (64, 64))
    for name, words in (("short", lines("word " * 24)), ("long", text)):
        save_grid(tmp_path / f"{name}.png", [Cell(image, words, words)])
    short, long = (Image.open(tmp_path / f"{name}.png") for name in ("short", "long"))
    assert short.size == long.size
    assert sum(short.convert("L").histogram()[:30]) == pytest.approx(sum(long.convert("L").histogram()[:30]), rel=0.5)
