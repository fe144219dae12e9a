"""Questions about a scene, each with its answer and the truth of what decides it.

In the templates brackets mark the words that decide the answer. A family offers every question it could ask of a scene;
`ask` takes the one whose answer was given least often so far, so that a question's words do not give its answer away.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from clipmapper.data.shapes.language import Description, place, unmark, with_article
from clipmapper.data.shapes.scene import COLOURS, SHAPES, Scene, Thing

MOST_COUNTED = 5
CLEAR = 12.0  # pixels by which one object must lie to a side of another to be asked about


@dataclass(frozen=True)
class Question:
    """`things`: indices of the deciding objects; `words`: (start, end) characters of the deciding words."""

    family: str
    text: str
    answer: str
    answer_type: str
    things: tuple[int, ...]
    words: tuple[tuple[int, int], ...]


def _question(family: str, marked: str, answer: str, answer_type: str, things: tuple[int, ...]) -> Question:
    text, words = unmark(marked)
    return Question(family, text, answer, answer_type, things, words)


def _yes_no(family: str, marked: str, yes: bool, things: tuple[int, ...]) -> Question:
    return _question(family, marked, "yes" if yes else "no", "yes/no", things)


def _unique(scene: Scene, *attributes: tuple[str, ...]) -> list[tuple[Description, int]]:
    """Descriptions by the given attributes that pick out exactly one object, with its index."""
    descriptions = []
    for names in attributes:
        for i, thing in enumerate(scene):
            description = Description(**{name: getattr(thing, name) for name in names})
            if description.find(scene) == (i,):
                descriptions.append((description, i))
    return descriptions


def existence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("Is there {}?", "Is there {} in the picture?", "Can you see {}?", "Does the image show {}?")
    present = {(t.colour, t.shape) for t in scene}
    # Half of the absent ones combine a colour and a shape that are there, but not on one object.
    near = {pair for pair in product({t.colour for t in scene}, {t.shape for t in scene})} - present
    far = {(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))) for _ in range(2)} - present
    absent = sorted(near if near and rng.random() < 0.5 else far)
    for colour, shape in [*sorted(present), *absent]:
        description = Description(colour=colour, shape=shape)
        text = str(rng.choice(forms)).format(with_article(description.words(marked=True)))
        things = description.find(scene)
        yield _yes_no("existence", text, bool(things), things)
    for name, names in (("shape", SHAPES), ("colour", tuple(COLOURS))):
        there = {getattr(t, name) for t in scene}
        for value in (str(rng.choice(sorted(there))), str(rng.choice([v for v in names if v not in there]))):
            description = Description(**{name: value})
            text = str(rng.choice(forms)).format(with_article(description.words(marked=True)))
            yield _yes_no("existence", text, value in there, description.find(scene))


def counting(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("How many {} are there?", "How many {} are in the picture?", "What is the number of {}?")
    descriptions = {Description(shape=t.shape) for t in scene} | {Description(colour=t.colour) for t in scene}
    descriptions |= {Description(colour=t.colour, shape=u.shape) for t in scene for u in scene}
    descriptions |= {Description(shape=str(rng.choice(SHAPES))), Description(colour=str(rng.choice(list(COLOURS))))}
    for description in sorted(descriptions, key=str):
        things = description.find(scene)
        if len(things) <= MOST_COUNTED:
            text = str(rng.choice(forms)).format(description.words(plural=True, marked=True))
            yield _question("counting", text, str(len(things)), "number", things)


def colour(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("What [color] is the {}?", "What is the [color] of the {}?", "Which [color] does the {} have?")
    for description, i in _unique(scene, ("shape",), ("size", "shape"), ("size",)):
        text = str(rng.choice(forms)).format(description.words(marked=True))
        yield _question("colour", text, scene.things[i].colour, "other", (i,))


def shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("What [shape] is the {}?", "What is the [shape] of the {}?", "Which [shape] does the {} have?")
    for description, i in _unique(scene, ("colour",), ("size", "colour"), ("size",)):
        text = str(rng.choice(forms)).format(description.words(marked=True))
        yield _question("shape", text, scene.things[i].shape, "other", (i,))


def size(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("What [size] is the {}?", "Is the {} [large] or [small]?", "What is the [size] of the {}?")
    for description, i in _unique(scene, ("shape",), ("colour",), ("colour", "shape")):
        text = str(rng.choice(forms)).format(description.words(marked=True))
        yield _question("size", text, scene.things[i].size, "other", (i,))


def position(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    forms = ("[Where] is the {}?", "[Where] in the picture is the {}?", "In which [part] of the picture is the {}?")
    for description, i in _unique(scene, ("shape",), ("colour",), ("colour", "shape")):
        text = str(rng.choice(forms)).format(description.words(marked=True))
        yield _question("position", text, place(scene.things[i]), "other", (i,))


# Each axis as (word for the lesser side, word for the greater, what follows them, where an object lies on it).
AXES: tuple[tuple[str, str, str, Callable[[Thing], float]], ...] = (
    ("left", "right", " of", lambda t: t.x),
    ("above", "below", "", lambda t: t.y),
)


def relation(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    named = _unique(scene, ("shape",), ("colour",), ("colour", "shape"))
    for (first, i), (second, j) in permutations(named, 2):
        less, greater, link, along = AXES[rng.integers(len(AXES))]
        gap = along(scene.things[i]) - along(scene.things[j])
        if i != j and abs(gap) > CLEAR:
            one, other = first.words(marked=True), second.words(marked=True)
            text = f"Is the {one} {{}}{link} the {other}?"
            yield _which("relation", text, (less, greater), gap > 0, (i, j), rng)


def comparison(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for name in ("shape", "colour"):
        kinds = sorted({getattr(t, name) for t in scene})
        for one, other in permutations(kinds, 2):
            first, second = Description(**{name: one}), Description(**{name: other})
            a, b = first.find(scene), second.find(scene)
            if len(a) != len(b):
                one, other = first.words(plural=True, marked=True), second.words(plural=True, marked=True)
                text = f"Are there {{}} {one} than {other}?"
                yield _which("comparison", text, ("fewer", "more"), len(a) > len(b), a + b, rng)
    for (first, i), (second, j) in permutations(_unique(scene, ("colour", "shape"), ("shape",)), 2):
        if scene.things[i].size != scene.things[j].size:
            text = f"Is the {first.words(marked=True)} {{}} than the {second.words(marked=True)}?"
            larger = scene.things[i].size == "large"
            yield _which("comparison", text, ("smaller", "larger"), larger, (i, j), rng)


def _which(
    family: str, text: str, words: tuple[str, str], greater: bool, things: tuple[int, ...], rng: np.random.Generator
) -> Question:
    """Asks for one of the two words, or which of them it is; `text` has a gap for them."""
    if rng.random() < 0.5:
        place = int(rng.integers(2))
        return _yes_no(family, text.format(f"[{words[place]}]"), place == greater, things)
    return _question(family, text.format("[{}] or [{}]".format(*words)), words[int(greater)], "other", things)


Family = Callable[[Scene, np.random.Generator], Iterator[Question]]
# Each family with its share of all questions.
FAMILIES: dict[str, tuple[Family, float]] = {
    "existence": (existence, 0.15),
    "counting": (counting, 0.16),
    "colour": (colour, 0.14),
    "shape": (shape, 0.14),
    "size": (size, 0.09),
    "position": (position, 0.10),
    "relation": (relation, 0.12),
    "comparison": (comparison, 0.10),
}


PreparedQuestions = Counter[tuple[str, int, str]]  # family, number of deciding words, answer -> questions


def ask(scene: Scene, rng: np.random.Generator, asked: PreparedQuestions, number: int) -> list[Question]:
    """`number` questions of different texts about a scene (fewer where it offers no more).

    `asked` counts over the whole data set and is updated.
    """
    names, shares = zip(*((name, share) for name, (_, share) in FAMILIES.items()), strict=True)
    questions: dict[str, Question] = {}
    for name in rng.choice(names, size=3 * number, p=np.array(shares) / sum(shares)):
        offered = [q for q in FAMILIES[str(name)][0](scene, rng) if q.text not in questions]
        if offered:
            least = min(asked[_kind(q)] for q in offered)
            fitting = [q for q in offered if asked[_kind(q)] == least]
            question = fitting[rng.integers(len(fitting))]
            asked[_kind(question)] += 1
            questions[question.text] = question
        if len(questions) == number:
            break
    return list(questions.values())


def _kind(question: Question) -> tuple[str, int, str]:
    return question.family, len(question.words), question.answer
