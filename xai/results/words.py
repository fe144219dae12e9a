"""Words from the pieces that tokenizers cut them into."""

from collections.abc import Callable, Sequence
from itertools import pairwise

ENDS = ("</w>", " ")  # close a word: CLIP's pieces, as they are or decoded one by one
STARTS = ("Ġ", "▁", " ")  # open a word: GPT's and SentencePiece's
GOES_ON = "##"  # goes on with the word: WordPiece's


def merge_pieces(pieces: Sequence[str | None]) -> list[tuple[str, list[int]]]:
    """Joins pieces to words, each with the positions of its pieces. None is a token that is no word; no word spans it.

    The marks in the text tell the convention; without marks every piece is a word.
    """
    joins = _convention([piece for piece in pieces if piece])
    words: list[list[int]] = []
    for position, (before, piece) in enumerate(pairwise([None, *pieces])):
        if piece is None:
            continue
        if before is not None and joins(before, piece):
            words[-1].append(position)
        else:
            words.append([position])
    return [("".join(_bare(pieces[i] or "") for i in word), word) for word in words]


def _convention(pieces: Sequence[str]) -> Callable[[str, str], bool]:
    """Returns whether a piece belongs to the word of the piece before it, as a function of both."""
    if any(piece.endswith(ENDS) for piece in pieces):
        return lambda before, piece: not before.endswith(ENDS)
    if any(piece.startswith(STARTS) for piece in pieces):
        return lambda before, piece: not piece.startswith(STARTS)
    return lambda before, piece: piece.startswith(GOES_ON)


def _bare(piece: str) -> str:
    for end in ENDS:
        piece = piece.removesuffix(end)
    for start in (*STARTS, GOES_ON):
        piece = piece.removeprefix(start)
    return piece
