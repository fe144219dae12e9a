"""Where the maps of a caption's words fall, against the objects of Shapes that the words name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipmapper.data.shapes.render import mask
from clipmapper.data.shapes.scene import Scene
from clipmapper.metrics.caption_truth import mentions
from clipmapper.truth.scores import FINE
from xai.metrics.localisation import patch_shares


@dataclass(frozen=True)
class Named:
    """A word of a caption that says a size, a colour or a shape of objects that the scene has."""

    caption: int
    place: int  # of the word in its caption
    word: str
    kind: str
    things: tuple[int, ...]  # the objects that fit the whole phrase


def named_words(words: Sequence[Sequence[str]], scenes: Sequence[Scene]) -> tuple[list[Named], int]:
    """Of captions of scenes the words that name something, and how many more name what the scene has not."""
    found, wrong = [], 0
    for caption, (spoken, scene) in enumerate(zip(words, scenes, strict=True)):
        for mention in mentions(spoken):
            things = mention.description.find(scene)
            wrong += 0 if things else len(mention.places)
            for kind, place in mention.places.items() if things else ():
                found.append(Named(caption, place, spoken[place], kind, things))
    return found, wrong


def region(scene: Scene, things: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """How much of each patch [rows, columns] some of these objects cover; CLIP's preprocessing keeps a square whole.

    Raises ValueError for a grid that is not square: scenes are.
    """
    if grid[0] != grid[1]:
        raise ValueError(f"scenes of Shapes are square, but the model's patches lie {grid[0]} x {grid[1]}")
    side = FINE * grid[0]
    covered = np.any([np.zeros((side, side), bool), *(mask(scene.things[i], side) for i in things)], axis=0)
    return patch_shares(torch.from_numpy(covered)[None], grid)[0]
