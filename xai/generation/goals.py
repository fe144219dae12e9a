"""What is explained of a written text: each of its tokens, a phrase as a whole, or why not another answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from xai.generation.inputs import Passage
from xai.generation.pieces import pieces_of
from xai.generation.steps import Figure, Steps
from xai.recording.recording import Recording
from xai.results.words import OPENS, merge_pieces, spoken
from xai.targets import Target

Pieces = Sequence[str | None]


@dataclass(frozen=True, eq=False)
class Goals:
    """Steps that are explained, each by a row of its own, or all by one.

    Attributes:
        steps: in the positions of the logits.
        pieces: what each row is called.
        places: where the last token of each row is in the text.
        figure: of each step.
        as_one: whether there is one row, for the sum of all steps.
    """

    steps: Steps
    pieces: tuple[str, ...]
    places: tuple[int, ...]
    figure: Figure = "logit"
    as_one: bool = False

    def parts(self, count: int) -> "Iterator[Goals]":
        """Yields so many rows at a time."""
        if self.as_one:
            yield self
            return
        steps = self.steps
        for start in range(0, len(self.pieces), count):
            some = slice(start, start + count)
            others = None if steps.others is None else steps.others[some]
            part = Steps(steps.of[some], steps.at[some], steps.tokens[some], others)
            yield replace(self, steps=part, pieces=self.pieces[some], places=self.places[some])

    def target(self) -> Target:
        """Makes the target, one number a row."""
        each = self.steps.target(self.figure)
        if not self.as_one:
            return each
        return Target(
            f"{self.figure} of {self.pieces[0].removeprefix(OPENS)}", lambda outputs: each(outputs).sum()[None]
        )

    def rows(self, recording: Recording, text: slice) -> Recording:
        """Makes the recording of these rows, as `Steps.rows`."""
        steps = self.steps
        last = Steps(steps.of[-1:], steps.at[-1:], steps.tokens[-1:]) if self.as_one else steps
        return last.rows(recording, text)


def tokens_of(tokenizer: Any, answer: str) -> list[int]:
    """Returns the tokens of an answer; raises ValueError if it has none."""
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ValueError(f"the answer {answer!r} has no tokens; give one with words")
    return list(tokens)


def each_token(tokens: Sequence[int], pieces: Pieces, whole: Passage, figure: Figure) -> Goals:
    """Explains every token that is (a piece of) a word; raises ValueError if none is."""
    places = [place for place, piece in enumerate(pieces) if piece is not None]
    if not places:
        raise ValueError("the answer has special tokens only; give one with words")
    names = tuple(pieces[place] or "" for place in places)
    return Goals(_steps(whole, places, tokens), names, _in_text(whole, places), figure)


def together(tokens: Sequence[int], pieces: Pieces, whole: Passage, figure: Figure, phrase: str) -> Goals:
    """Explains the words of a phrase at once; raises ValueError if the text has no such words."""
    words = merge_pieces(pieces)
    wanted = "".join(phrase.split())
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            if wanted and "".join("".join(word.split()) for word, _ in words[start:stop]) == wanted:
                places = [place for _, of_word in words[start:stop] for place in of_word]
                name = OPENS + phrase.strip()
                return Goals(_steps(whole, places, tokens), (name,), _in_text(whole, places[-1:]), figure, as_one=True)
    text = spoken([word for word, _ in words])
    raise ValueError(f"the phrase {phrase!r} is no sequence of words of {text!r}")


def parting(
    tokens: Sequence[int], pieces: Pieces, whole: Passage, tokenizer: Any, special: set[int], other: str
) -> Goals:
    """Explains the first token in which the text and another differ; raises ValueError if there is none."""
    others = tokens_of(tokenizer, other)
    place = next((i for i, (one, two) in enumerate(zip(tokens, others, strict=False)) if one != two), None)
    if place is None:
        raise ValueError(
            f"the answer and {other!r} do not differ, or one begins with the other; give answers that part"
        )
    names = (_word_at(pieces, place), _word_at(pieces_of(tokenizer, others, special), place))
    steps = replace(_steps(whole, [place], tokens), others=torch.tensor([others[place]]))
    return Goals(steps, (OPENS + " rather than ".join(names),), _in_text(whole, [place]))


def _steps(whole: Passage, places: Sequence[int], tokens: Sequence[int]) -> Steps:
    at = torch.tensor(places) + whole.start - 1
    return Steps(torch.zeros_like(at), at, torch.tensor([tokens[place] for place in places]))


def _in_text(whole: Passage, places: Sequence[int]) -> tuple[int, ...]:
    """Places in the text modality, which begins with the start token of a decoder, but without a prompt."""
    return tuple(place + (0 if whole.prompt is None else whole.start) for place in places)


def _word_at(pieces: Pieces, place: int) -> str:
    return next((word for word, places in merge_pieces(pieces) if place in places), "the end")
