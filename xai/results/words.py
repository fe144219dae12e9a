"""Words from the pieces that tokenizers cut them into."""

import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

OPENS = "▁"  # opens a word: SentencePiece's; where there is one, no other mark counts
ENDS = ("</w>", " ")  # close a word: CLIP's pieces, as they are or decoded one by one
STARTS = ("Ġ", OPENS, " ")  # open a word: GPT's and SentencePiece's
GOES_ON = "##"  # goes on with the word: WordPiece's
# beginnings of the names of letters of scripts that put no blanks between words
WITHOUT_BLANKS = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "IDEOGRAPHIC",
)
CLOSING, OPENING = ".,;:!?)]}%…", ("(", "[", "{")


def without_blanks(letter: str) -> bool:
    """Returns whether a letter or mark is of a script that puts no blanks between words."""
    return unicodedata.name(letter, "").startswith(WITHOUT_BLANKS)


def blank_between(before: str, word: str) -> bool:
    """Returns whether a blank is between two words: not in scripts that have none, nor before a mark that ends something."""
    if not before or not word:
        return False
    return not (without_blanks(before[-1]) or without_blanks(word[0]) or word[0] in CLOSING or before in OPENING)


def spoken(words: Sequence[str]) -> str:
    """Returns words as one text, with blanks where they belong."""
    return "".join((" " if blank_between(before, word) else "") + word for before, word in pairwise(["", *words]))


def merge_pieces(pieces: Sequence[str | None]) -> list[tuple[str, list[int]]]:
    """Joins pieces to words, each with the positions of its pieces. None is a token that is no word; no word spans it.

    The marks in the text tell the convention; without marks every piece is a word.
    """
    known = [piece for piece in pieces if piece]
    joins, bare = _convention(known), _without_opening if _opened(known) else _bare
    words: list[list[int]] = []
    for position, (before, piece) in enumerate(pairwise([None, *pieces])):
        if piece is None:
            continue
        if before is not None and joins(before, piece):
            words[-1].append(position)
        else:
            words.append([position])
    return [("".join(bare(pieces[i] or "") for i in word), word) for word in words]


def _convention(pieces: Sequence[str]) -> Callable[[str, str], bool]:
    """Returns whether a piece belongs to the word of the piece before it, as a function of both."""
    if _opened(pieces):
        return lambda before, piece: not piece.startswith(OPENS)
    if any(piece.endswith(ENDS) for piece in pieces):
        return lambda before, piece: not before.endswith(ENDS)
    if any(piece.startswith(STARTS) for piece in pieces):
        return lambda before, piece: not piece.startswith(STARTS)
    return lambda before, piece: piece.startswith(GOES_ON)


def _opened(pieces: Sequence[str]) -> bool:
    return any(piece.startswith(OPENS) for piece in pieces)


def _without_opening(piece: str) -> str:
    return piece.removeprefix(OPENS)


def _bare(piece: str) -> str:
    for end in ENDS:
        piece = piece.removesuffix(end)
    for start in (*STARTS, GOES_ON):
        piece = piece.removeprefix(start)
    return piece
