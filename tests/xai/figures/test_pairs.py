"""The picture of pairs: a line for each strong pair, a map for each word."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from xai.figures.geometry import shortest
from xai.figures.pairs import LINES, drawing, strongest, words_of
from xai.results.modality import ModalityRelevance
from xai.results.relevance import Relevance


def relevance(samples: int = 1) -> Relevance:
    """The second piece of "ball" and the patch at the top right are strong together; patches are 2 x 3 after a class token."""
    patches, words = torch.ones(samples, 7, dtype=torch.bool), torch.ones(samples, 5, dtype=torch.bool)
    special = torch.zeros(samples, 7, dtype=torch.bool)
    special[:, 0] = True
    ends = torch.zeros(samples, 5, dtype=torch.bool)
    ends[:, [0, 4]] = True
    pairs = torch.zeros(samples, 5, 7)
    pairs[:, 3, 3], pairs[:, 2, 3], pairs[:, 1, 4] = 1.0, 0.5, -0.6
    parts = {
        "image": ModalityRelevance(torch.zeros(samples, 7), patches, special, (2, 3)),
        "text": ModalityRelevance(torch.zeros(samples, 5), words, ends),
    }
    made = Relevance(parts, "fixlip", {"budget": 8}, "yes", pairs={("text", "image"): pairs})
    return made.with_words([["<s>", "▁red", "▁ba", "ll", "</s>"]] * samples)


def test_each_word_has_its_patches() -> None:
    words = words_of(relevance(), 0)
    assert [word.target for word in words] == ["red", "ball"]
    assert words[1].map()[0].tolist() == [[0, 0, 1.5], [0, 0, 0]]
    assert words[0].map()[0].tolist() == [[0, 0, 0], [pytest.approx(-0.6), 0, 0]]


def test_the_strongest_pairs_weak_ones_first() -> None:
    maps = torch.stack([word.map()[0] for word in words_of(relevance(), 0)])
    assert strongest(maps) == [(0, 1, 0, pytest.approx(-0.4)), (1, 0, 2, 1.0)]
    many = strongest(torch.arange(60.0).view(3, 4, 5) + 100)
    assert len(many) == LINES and many[-1] == (2, 3, 4, 1.0)
    assert strongest(torch.zeros(1, 2, 2)) == []


def test_lines_end_at_the_patch() -> None:
    """Of an image twice as wide as high the model saw the middle square."""
    image = Image.new("RGB", (200, 100))
    axes = drawing(words_of(relevance(), 0), image, lambda size: shortest(size, 60)).axes[0]
    left, right, bottom, top = axes.images[0].get_extent()
    line = [found for found in axes.lines if len(found.get_xdata()) == 2][-1]  # the strongest
    x, y = line.get_xdata()[0], line.get_ydata()[0]
    assert (x - left) / (right - left) == pytest.approx(0.25 + 0.5 * 5 / 6)
    assert (y - top) / (bottom - top) == pytest.approx(0.25)
    assert "ball" in [text.get_text() for text in axes.texts]


def test_a_png_of_all_samples(tmp_path: Path) -> None:
    shown = relevance(2)
    shown.save_pairs(tmp_path / "pairs.png", [Image.new("RGB", (40, 30))] * 2)
    shown.save_pairs(tmp_path / "bare.png")
    assert Image.open(tmp_path / "pairs.png").height > 600
    with pytest.raises(ValueError, match="1 images for 2 samples"):
        shown.save_pairs(tmp_path / "pairs.png", [None])
    with pytest.raises(ValueError, match="no pairs of 'image' and 'text'"):
        shown.save_pairs(tmp_path / "pairs.png", modalities=("image", "text"))
