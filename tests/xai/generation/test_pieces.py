"""Words come out whole, whatever a tokenizer cuts them into."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xai.generation.pieces import pieces_of
from xai.results.words import merge_pieces


class Bytes:
    """A token for each byte."""

    def decode(self, ids: list[int], **options: bool) -> str:
        return bytes(ids).decode(errors="replace")


def words(text: str) -> list[str]:
    ids = list(text.encode())
    merged = merge_pieces(pieces_of(Bytes(), ids))
    assert [place for _, places in merged for place in places] == list(range(len(ids)))
    for word, places in merged:  # the tokens of a word are those of its letters and of blanks
        assert text.encode()[places[0] : places[-1] + 1].decode().strip().replace("▁", "_") == word
    return [word for word, _ in merged]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ein rotes Auto fährt über die Brücke.", ["Ein", "rotes", "Auto", "fährt", "über", "die", "Brücke", "."]),
        ("一只红色的狗。", list("一只红色的狗。")),
        ("a dog 🐶! 👩‍🚀👍🏽", ["a", "dog", "🐶", "!", "👩‍🚀", "👍🏽"]),
        ("🇩🇪🇫🇷 won 3.5, it's a t-shirt...", ["🇩🇪", "🇫🇷", "won", "3.5", ",", "it's", "a", "t-shirt", "..."]),
        ("これは犬です", list("これは犬です")),
        ("  two\n\nlines", ["two", "lines"]),
        ("▁ is </w> a Ġmark ", ["_", "is", "<", "/", "w", ">", "a", "Ġmark"]),
    ],
)
def test_words_of_bytes(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_tokens_that_are_no_words_part_words() -> None:
    ids = list(b"re\x00d car\x00")
    pieces = pieces_of(Bytes(), ids, {0})
    assert [piece for piece in pieces if piece is None] == [None, None]
    assert [word for word, _ in merge_pieces(pieces)] == ["re", "d", "car"]


def test_blanks_without_words_are_seen() -> None:
    assert [word for word, _ in merge_pieces(pieces_of(Bytes(), list(b"\n\n\x00 a \x00 "), {0}))] == ["␣", "a", "␣"]


def test_bytes_that_are_no_text_stay_where_they_are() -> None:
    merged = merge_pieces(pieces_of(Bytes(), [0x61, 0xF0, 0x9F, 0x20, 0x62, 0xF0]))
    assert [place for _, places in merged for place in places] == [*range(6)] and merged[-2][0] == "b"


def test_sentence_pieces_and_word_pieces() -> None:
    """Decoders that leave out the blank in front of a text."""
    vocabulary = {"<unk>": 0, "▁a": 1, "▁hex": 2, "agon": 3, "▁": 4, "好": 5, "<0xC3>": 6, "<0xA9>": 7}
    llama = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    llama.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=llama)
    merged = merge_pieces(pieces_of(fast, [1, 2, 3, 5, 6, 7, 1]))
    assert merged == [("a", [0]), ("hexagon", [1, 2]), ("好", [3]), ("é", [4, 5]), ("a", [6])]
    bert = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, "un": 2, "##known": 3, "ball": 4, ".": 5}, unk_token="[UNK]")
    )
    bert.pre_tokenizer, bert.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    merged = merge_pieces(pieces_of(PreTrainedTokenizerFast(tokenizer_object=bert), [1, 2, 3, 4, 5]))
    assert merged == [("a", [0]), ("unknown", [1, 2]), ("ball", [3]), (".", [4])]
