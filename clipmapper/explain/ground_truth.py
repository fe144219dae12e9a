"""The ground truth of relevance on Shapes: on the objects and words that decide an answer, or that a caption names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmapper.data.shapes.render import mask
from clipmapper.data.shapes.scene import Scene
from clipmapper.data.shapes.truth import Span, Truth
from clipmapper.metrics.caption_truth import mentions
from xai.metrics.localisation import patch_shares
from xai.results.words import OPENS, merge_pieces

FINE = 16  # pixels of a patch's side in which a region is drawn
ENDS = ("<start_of_text>", "<end_of_text>")  # tokens that stand for no characters


@dataclass(frozen=True)
class NamedWord:
    """A word of a caption that says a size, a colour or a shape of objects that the scene has.

    Attributes:
        caption: number of the caption.
        place: of the word in it.
        word: the word.
        kind: "size", "colour" or "shape".
        things: the objects that fit the whole phrase.
    """

    caption: int
    place: int
    word: str
    kind: str
    things: tuple[int, ...]


def of_answers(
    truth: Truth, records: Mapping[str, Any], patches: Tensor, words: Sequence[Sequence[str]], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """Returns how much of each token decides the answer, [B, tokens] by modality, 0 to 1.

    Args:
        truth: of the data set.
        records: the questions' columns.
        patches: [B, tokens], True at the image's patches.
        words: the strings of each question's tokens.
        grid: rows and columns of the patches.
    """
    regions = answer_regions(truth, records["question_id"], grid)
    spoken = zip(records["question_id"], records["question"], words, strict=True)
    text = []
    for key, question, tokens in spoken:
        spans = truth.words(key, question)
        try:
            text.append(deciding_tokens(spans, question, tokens))
        except ValueError as error:  # CLIP's tokenizer mends what it takes for broken text
            raise truth.edited(key, question) from error
    image = torch.zeros(patches.shape).masked_scatter(patches.cpu(), regions)
    return {"image": image, "text": torch.stack(text)}


def answer_regions(truth: Truth, questions: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Returns the share of each patch that deciding objects cover, [B, rows, columns].

    CLIP's preprocessing keeps a square whole.
    """
    size = (FINE * grid[0], FINE * grid[1])
    return patch_shares(torch.from_numpy(np.stack([truth.region(key, size) for key in questions])), grid)


def deciding_tokens(spans: Sequence[Span], question: str, tokens: Sequence[str]) -> Tensor:
    """Returns 1 at the tokens [T] that share characters with a span, else 0. ValueError for a token that the question has not."""
    shares, at, text = torch.zeros(len(tokens)), 0, question.lower()
    for i, token in enumerate(tokens):
        piece = token.strip().removeprefix(OPENS).lower()
        if not piece or piece in ENDS:
            continue
        first = text.index(piece, at)
        at = first + len(piece)
        shares[i] = any(first < stop and start < at for start, stop in spans)
    return shares


def named_words(words: Sequence[Sequence[str]], scenes: Sequence[Scene]) -> list[NamedWord]:
    """Returns the words of captions of scenes that name something that the scene has."""
    return [word for word in said_words(words, scenes) if word.things]


def said_words(words: Sequence[Sequence[str]], scenes: Sequence[Scene]) -> list[NamedWord]:
    """Returns the words of captions that name objects; without `things` where the scene has none that fits the phrase."""
    said = []
    for caption, (spoken, scene) in enumerate(zip(words, scenes, strict=True)):
        for mention in mentions(spoken):
            things = mention.description.find(scene)
            said += [NamedWord(caption, place, spoken[place], kind, things) for kind, place in mention.places.items()]
    return said


def word_regions(tokens: Sequence[Sequence[str]], scenes: Sequence[Scene], grid: tuple[int, int]) -> Tensor:
    """Returns how much of each patch is of the objects that each token's word names, [B, tokens, rows * columns], 0 to 1.

    Args:
        tokens: the strings of each text's tokens, those that are no words among them; captions or questions of Shapes.
        scenes: of each text.
        grid: rows and columns of the patches.
    """
    bare = [[None if token.strip().lower() in ("", *ENDS) else token for token in text] for text in tokens]
    merged = [merge_pieces(text) for text in bare]
    regions = torch.zeros(len(tokens), max(map(len, tokens)), grid[0] * grid[1])
    for named in named_words([[word.lower() for word, _ in text] for text in merged], scenes):
        _, places = merged[named.caption][named.place]
        regions[named.caption, places] = scene_region(scenes[named.caption], named.things, grid).flatten()
    return regions


def scene_region(scene: Scene, things: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Returns how much of each patch [rows, columns] some of a scene's objects cover.

    Raises:
        ValueError: the grid is not square; scenes are.
    """
    if grid[0] != grid[1]:
        raise ValueError(f"scenes of Shapes are square, but the model's patches lie {grid[0]} x {grid[1]}")
    side = FINE * grid[0]
    covered = np.any([np.zeros((side, side), bool), *(mask(scene.things[i], side) for i in things)], axis=0)
    return patch_shares(torch.from_numpy(covered)[None], grid)[0]
