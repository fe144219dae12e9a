"""Captions as steps: words, wholes and weights worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xai.figures import filmstrip
from xai.results.captions import CaptionRelevance, average, drop_weights

from ..conftest import relevance_of

START = "<start>"


@pytest.fixture
def relevance() -> CaptionRelevance:
    """ "a hexagon" of an image of 1 x 2 patches, in three tokens, and "stars" in one."""
    image = torch.tensor([[9.0, 1, 2], [9, 3, 4], [9, 5, 8], [9, 7, 0]])
    text = torch.tensor([[1.0, 0, 0], [2, 3, 0], [4, 5, 6], [7, 0, 0]])
    mask = text > 0
    first = torch.tensor([[True, False, False]] * 4)
    masks = {"image": torch.ones(4, 3, dtype=torch.bool), "text": mask}
    steps = relevance_of(
        {"image": image, "text": text}, masks, {"image": first, "text": first}, {"image": (1, 2)}, "each token in turn"
    ).with_words([[START], [START, "a "], [START, "a ", "hex"], [START]])
    weights = (torch.tensor([0.5, 0.25, 0.25]), torch.ones(1))
    return CaptionRelevance(steps, (("a ", "hex", "agon "), ("stars ",)), weights)


def test_a_words_map_is_the_mean_of_its_tokens(relevance: CaptionRelevance) -> None:
    assert relevance.words == [["a", "hexagon"], ["stars"]]
    first, second = relevance.word_maps()
    assert first.tolist() == [[[1, 2]], [[4, 6]]] and second.tolist() == [[[7, 0]]]


def test_between_words(relevance: CaptionRelevance) -> None:
    """ "agon" goes back by 5 on "a" and 6 on "hex", "hex" by 3 on "a"."""
    first, second = relevance.between_words()
    assert first.tolist() == [[0, 0], [(3 + 5) / 2, 6 / 2]] and second.tolist() == [[0]]


def test_a_word_stands_after_the_text_of_its_last_token(relevance: CaptionRelevance) -> None:
    words = relevance.per_word
    assert words["text"].mask.sum(dim=1).tolist() == [1, 3, 1]
    assert words.by_word() == [[], [("a", 4.0), ("hex", 3.0)], []]


def test_the_whole_is_the_weighted_sum(relevance: CaptionRelevance) -> None:
    whole = relevance.whole()
    assert whole.map().tolist() == [[[0.5 + 0.75 + 1.25, 1 + 1 + 2]], [[7, 0]]]
    assert whole.scores["text"].tolist() == [[0.5 + 0.5 + 1, 0.75 + 1.25, 1.5], [7, 0, 0]]
    assert whole.content("text").tolist() == [[False, True, True], [False] * 3]
    last = relevance.whole([torch.tensor([0.0, 0, 1]), torch.ones(1)])
    assert last.map().tolist() == [[[5, 8]], [[7, 0]]]


def test_one_of_the_captions(relevance: CaptionRelevance) -> None:
    second = relevance.only(1)
    assert second.words == [["stars"]] and second.whole().map().tolist() == [[[7, 0]]]
    torch.testing.assert_close(relevance.only(0).whole().map(), relevance.whole().map()[:1])


def test_each_word_by_itself(relevance: CaptionRelevance) -> None:
    words = relevance.each_word(0)
    assert [word.target for word in words] == ["a", "hexagon"] and words[1].map().tolist() == [[[4, 6]]]
    (only,) = relevance.each_word(1)
    assert only.target == "stars" and only.map().tolist() == [[[7, 0]]]


def test_weights_by_drops() -> None:
    assert drop_weights(torch.tensor([0.3, -0.5, 0.1, 0.0])).tolist() == pytest.approx([0.75, 0, 0.25, 0])
    assert drop_weights(torch.tensor([-0.3, 0.0])).tolist() == [0.5, 0.5]
    assert drop_weights(torch.tensor([1e-16, 0.0, 0.0], dtype=torch.float64)).tolist() == average(3).tolist()
    assert average(4).tolist() == [0.25] * 4


def test_every_token_needs_a_step_and_a_weight(relevance: CaptionRelevance) -> None:
    for tokens, weights in [
        (relevance.tokens[:1], relevance.weights[:1]),
        (relevance.tokens, relevance.weights[::-1]),
        ((("a ", "hex", "agon ", "stars "), ()), (torch.ones(4), torch.ones(0))),
    ]:
        with pytest.raises(ValueError, match="do not fit 4 steps"):
            CaptionRelevance(relevance.steps, tokens, weights)


def test_drawn(relevance: CaptionRelevance, tmp_path: Path) -> None:
    """The first strip is wider: it has one more word."""
    images = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    relevance.save_filmstrip(tmp_path / "both.png", images)
    relevance.only(1).save_filmstrip(tmp_path / "second.png", images[1:])
    both, second = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("both", "second"))
    assert both.shape[1] > second.shape[1] and both.shape[0] > second.shape[0]
    strip = both[-second.shape[0] :]
    assert (strip[:, : second.shape[1]] == second).all() and (strip[:, second.shape[1] :] == 255).all()
    relevance.save_overlay(tmp_path / "whole.png", images)
    assert Image.open(tmp_path / "whole.png").width > 100
    with pytest.raises(ValueError, match="1 images for 2 captions"):
        relevance.save_filmstrip(tmp_path / "none.png", images[:1])


def test_long_captions_go_on_below(
    relevance: CaptionRelevance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two words and one, at most one across: three strips, all as wide as that of the shorter caption."""
    relevance.save_filmstrip(tmp_path / "plain.png")
    monkeypatch.setattr(filmstrip, "ACROSS", 1)
    assert [len(filmstrip.strips(relevance, caption)) for caption in (0, 1)] == [2, 1]
    relevance.save_filmstrip(tmp_path / "narrow.png")
    relevance.only(1).save_filmstrip(tmp_path / "second.png")
    plain, narrow, second = (Image.open(tmp_path / f"{name}.png").size for name in ("plain", "narrow", "second"))
    assert narrow[0] == second[0] < plain[0] and narrow[1] > plain[1]
