"""Relevance on each modality's own tokens."""

import pytest
import torch

from xai import Relevance, explain, given

from ..conftest import build, relevance_of

TOKENS = ["[CLS]", "what", "is", "rec", "##tangle", "?", "[SEP]"]


@pytest.fixture
def relevance() -> Relevance:
    """Two samples of 2 prefix tokens and 2 x 3 patches, 7 and 5 words, and two object queries."""
    mask = torch.arange(7) < torch.tensor([[7], [5]])
    special = torch.zeros(2, 7, dtype=torch.bool)
    special[:, 0] = special[0, 6] = special[1, 4] = True
    none, prefix = torch.zeros(2, 8, dtype=torch.bool), torch.arange(8).expand(2, 8) < 2
    scores = {
        "image": torch.arange(16.0).reshape(2, 8),
        "text": torch.tensor([[9.0, 1, 2, 3, 4, 5, 9], [9, 6, 7, -8, 9, 0, 0]]),
        "queries": torch.ones(2, 2),
    }
    masks = {"image": ~none, "text": mask, "queries": ~none[:, :2]}
    specials = {"image": prefix, "text": special, "queries": ~none[:, :2]}
    return relevance_of(scores, masks, specials, {"image": (2, 3)}, "predicted")


def test_map(relevance: Relevance) -> None:
    assert relevance.map("image").tolist() == [[[2, 3, 4], [5, 6, 7]], [[10, 11, 12], [13, 14, 15]]]
    with pytest.raises(ValueError, match="'text' has no grid; those with one: image"):
        relevance.map("text")


def test_maps_of_models() -> None:
    family = build("dinov2 with registers")
    found = explain(family.model, family.inputs, "wra", family.target)
    assert torch.equal(found.map(), found.scores["image"][:, 5:].reshape(2, 2, 2))


def test_content_is_neither_special_nor_padding(relevance: Relevance) -> None:
    assert relevance.content("text").int().tolist() == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]
    assert relevance.content("image").sum() == 12 and not relevance.content("queries").any()
    with pytest.raises(ValueError, match="no modality 'words'; there are: image, text, queries"):
        relevance.content("words")


def test_shares_of_modalities(relevance: Relevance) -> None:
    """By hand: content alone, positive alone; object queries are special, so no content."""
    shares = relevance.shares()
    assert list(shares) == ["image", "text"]
    image, text = torch.tensor([27.0, 75.0]), torch.tensor([15.0, 13.0])
    torch.testing.assert_close(shares["image"], image / (image + text))
    torch.testing.assert_close(shares["text"], text / (image + text))


def test_words(relevance: Relevance) -> None:
    worded = relevance.with_words([TOKENS, ["[CLS]", "a", "b", "##c", "[SEP]"]])  # padding has no string, or one
    assert worded.by_word() == [[("what", 1), ("is", 2), ("rectangle", 7), ("?", 5)], [("a", 6), ("bc", -1)]]
    padded = relevance.with_words([TOKENS, ["[CLS]", "a", "b", "##c", "[SEP]", "[PAD]", "[PAD]"]])
    assert padded.by_word() == worded.by_word()
    assert relevance["text"].words is None


def test_words_without_strings_are_positions(relevance: Relevance) -> None:
    assert relevance.by_word()[1] == [("2", 6), ("3", 7), ("4", -8)]
    assert relevance.by_word("queries") == [[], []]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TOKENS], "strings of 1 samples for 2"),
        ([TOKENS, TOKENS[:4]], "sample 1 has 5 tokens of 'text', but strings for 4"),
        ([[*TOKENS, "more"], TOKENS], "sample 0 has 7 tokens of 'text', but strings for 8"),
        (["what is", TOKENS], "sample 0 has 7 tokens"),  # a text is no list of tokens
    ],
)
def test_words_that_do_not_fit(relevance: Relevance, words: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relevance.with_words(words)


def test_boxes(relevance: Relevance) -> None:
    boxes = torch.rand(2, 7, 4)
    boxed = relevance.with_boxes([boxes[0], boxes[1, :5]], "text")
    boxes[1, 5:] = 0
    assert torch.equal(boxed["text"].boxes, boxes)
    with pytest.raises(ValueError, match=r"sample 1 has 5 text, but boxes of shape \[4, 4\]"):
        relevance.with_boxes([boxes[0], boxes[1, :4]], "text")
    with pytest.raises(ValueError, match="boxes of 1 samples for 2"):
        relevance.with_boxes(boxes[:1], "text")
    with pytest.raises(ValueError, match="no modality 'regions'"):
        relevance.with_boxes(boxes)


def test_signed(relevance: Relevance) -> None:
    assert relevance.signed
    family = build("vit")
    assert not explain(family.model, family.inputs, "wra", given(0)).signed
