"""Scenes of Shapes with questions about them, to try a model on."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipmapper.data.shapes.questions import PreparedQuestions, ask
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene

SEED = 42, 2  # of scenes that no split of the data sets in use has


@dataclass(frozen=True)
class Example:
    """A picture and questions about it."""

    image: Image.Image
    questions: tuple[str, ...]


def examples(count: int = 6, questions: int = 5) -> list[Example]:
    """Returns scenes, the same in every run, each with questions about it.

    Args:
        count: how many scenes.
        questions: about each, fewer where a scene offers no more.

    Example:
        >>> from clipmapper.app.scenes import examples
        >>> [example.image.size for example in examples(2)]
        [(128, 128), (128, 128)]
    """
    asked: PreparedQuestions = Counter()
    made = []
    for number in range(count):
        scene = sample_scene((*SEED, number))
        found = ask(scene, np.random.default_rng((*SEED, number)), asked, questions)
        made.append(Example(render(scene), tuple(question.text for question in found)))
    return made
