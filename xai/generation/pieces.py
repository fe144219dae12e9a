"""The pieces of words that tokens stand for, as `xai.results.words.merge_pieces` joins them: "▁" opens a word.

Tokens are decoded together, as a streaming decoder does: byte-level tokenizers cut a character into several tokens, which
mean nothing one by one.
"""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

from xai.results.words import OPENS, without_blanks

BLANK = "\N{OPEN BOX}"  # is shown for blanks that no word follows or precedes
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoders give for bytes that are no whole character
JOINER = "\N{ZERO WIDTH JOINER}"
FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # two of these letters are one
TONES = "".join(map(chr, range(0x1F3FB, 0x1F400)))  # of skin


def pieces_of(tokenizer: Any, ids: Sequence[int], special: Collection[int] = ()) -> list[str | None]:
    """Returns the piece of each token; None for those that are no words.

    Args:
        tokenizer: that of the ids, with `decode`.
        ids: of a text.
        special: ids that are no words.

    Returns:
        A piece with "▁" in front where a word begins: after a blank, at a character of a script without blanks, at a
        punctuation mark or a symbol, and after these. Of a character that several tokens make, the last has it.

    Example:
        >>> from xai.generation.pieces import pieces_of
        >>> class Letters:  # one token a byte
        ...     def decode(self, ids, **options):
        ...         return bytes(ids).decode(errors="replace")
        >>> [piece for piece in pieces_of(Letters(), list("né 好.".encode()))]
        ['▁n', '', 'é', '▁', '', '', '好', '▁.']
    """
    groups = [*_groups(tokenizer, ids, special), (0, None)]
    pieces: list[str | None] = []
    before, blank = "", False  # since the last token that is no word; whether a blank alone has opened the next word
    for (count, text), (_, after) in pairwise(groups):
        if text is None:
            before, blank = "", False
            pieces.append(None)
            continue
        whole = " ".join(text.split()).replace(OPENS, "_")
        last = not whole and after is None
        ends = last and before.strip() != ""  # a blank at the end belongs to the word before it
        whole = BLANK if last and not ends else whole
        opens = OPENS if not (blank or ends) and (not whole or _opens(before, text, after or "")) else ""
        pieces += [opens + whole] if count == 1 else [opens, *[""] * (count - 2), whole]
        before, blank = before + text, not whole and not ends
    return pieces


def _groups(tokenizer: Any, ids: Sequence[int], special: Collection[int]) -> Iterator[tuple[int, str | None]]:
    """Yields how many tokens make a piece of text, mostly one, and what they add to it; None of a token that is no word."""

    def added(stop: int) -> str:
        before, now = (
            str(tokenizer.decode(ids[context:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))
            for end in (start, stop)
        )
        return now[len(before) :] if now.startswith(before) else now

    context = start = 0  # decoded from the piece before on, without which the blank in front is lost
    for at, number in enumerate(ids):
        if number in special:
            if start < at:
                yield at - start, added(at)
            yield 1, None
            context = start = at + 1
        elif not (text := added(at + 1)).endswith(UNFINISHED) or at + 1 == len(ids):
            yield at + 1 - start, text
            context, start = start, at + 1


def _opens(before: str, text: str, after: str) -> bool:
    """Whether a word begins with `text`."""
    if before == "" or text[0].isspace() or before[-1].isspace():
        return True
    last, first = before[-1], text[0]
    if _continues(before, first):
        return False
    if _stands_alone(first) and _stands_alone(last) and first == last and not without_blanks(first):
        return False  # such as "..."
    if _joins(last, text, after) or _joins_before(before, first):
        return False
    return _stands_alone(first) or _stands_alone(last)


def _continues(before: str, first: str) -> bool:
    """Marks on a letter, and the parts of one emoji: joined ones, tones, and the two letters of a flag."""
    if JOINER in (first, before[-1]) or unicodedata.category(first) in ("Mn", "Mc", "Me", "Cf"):
        return True
    flags = len(before) - len(before.rstrip(FLAGS))
    return first in TONES or (first in FLAGS and flags % 2 == 1)


def _joins(last: str, text: str, after: str) -> bool:
    """A mark inside a word or a number, as in t-shirt, it's and 3.5."""
    mark, inside = text.strip(), (after[:1] if len(text) == 1 else text[1:2])
    if mark[:1] not in ("-", "'", "’", ".", ",", ":", "_") or not inside:
        return False
    if mark[0] in ".,:":
        return last.isdigit() and inside.isdigit()
    return last.isalnum() and inside.isalnum()


def _joins_before(before: str, first: str) -> bool:
    return len(before) > 1 and first.isalnum() and _joins(before[-2], before[-1], first)


def _stands_alone(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS" or without_blanks(letter)
