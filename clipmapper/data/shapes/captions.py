"""Captions of a scene, true or wrong in one detail (hard negatives for contrastive pretraining)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from clipmapper.data.shapes.language import NUMBERS, Description, listing, with_article
from clipmapper.data.shapes.questions import CLEAR
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIZES, Scene, Thing


class Caption(NamedTuple):
    """A caption, and of which scenes it is true."""

    text: str
    holds: Callable[[Scene], bool]


# Each relation as (words, sign, axis): the first object is so to the second if sign * (its axis - the other's) > 0.
RELATIONS: tuple[tuple[str, float, Callable[[Thing], float]], ...] = (
    ("left of", -1, lambda t: t.x),
    ("right of", 1, lambda t: t.x),
    ("above", -1, lambda t: t.y),
    ("below", 1, lambda t: t.y),
)

CaptionKind = Callable[[Scene, np.random.Generator], Caption]


def _naming(thing: Thing, *names: str) -> str:
    return Description(**{name: getattr(thing, name) for name in names}).words()


def _tally(scene: Scene, *names: str) -> Counter[tuple[str, ...]]:
    """Counts the objects that share each combination of the named attributes."""
    return Counter(tuple(getattr(thing, name) for name in names) for thing in scene)


def everything(scene: Scene, rng: np.random.Generator) -> Caption:
    """All objects with all attributes."""
    names = ("size", "colour", "shape")
    said = _tally(scene, *names)
    order = rng.permutation(len(scene.things))
    text = listing([with_article(_naming(scene.things[i], *names)) for i in order])
    return Caption(text, lambda other: _tally(other, *names) == said)


def some(scene: Scene, rng: np.random.Generator) -> Caption:
    """Two objects by colour and shape."""
    chosen = [scene.things[i] for i in rng.permutation(len(scene.things))[:2]]
    said = Counter((thing.colour, thing.shape) for thing in chosen)
    opening = str(rng.choice(("a picture of ", "an image with ", "there is ", "")))
    text = opening + listing([with_article(_naming(thing, "colour", "shape")) for thing in chosen])
    return Caption(text, lambda other: said <= _tally(other, "colour", "shape"))


def counts(scene: Scene, rng: np.random.Generator) -> Caption:
    """Says the number of objects of each shape, or of each colour."""
    name = str(rng.choice(("shape", "colour")))
    said = _tally(scene, name)
    phrases = [f"{NUMBERS[n]} {Description(**{name: kind}).words(plural=n > 1)}" for (kind,), n in sorted(said.items())]
    text = listing([phrases[i] for i in rng.permutation(len(phrases))])
    return Caption(text, lambda other: _tally(other, name) == said)


def relation(scene: Scene, rng: np.random.Generator) -> Caption:
    """Says where one object lies seen from another; of a lone object, everything."""
    number = len(scene.things)
    for i, j in rng.permutation([[i, j] for i in range(number) for j in range(number)]):
        for k in rng.permutation(len(RELATIONS)):
            words, sign, axis = RELATIONS[k]
            first, second = (Description(colour=t.colour, shape=t.shape) for t in (scene.things[i], scene.things[j]))
            if sign * (axis(scene.things[i]) - axis(scene.things[j])) > CLEAR:
                text = f"{with_article(first.words())} {words} {with_article(second.words())}"
                return Caption(text, partial(_lies, first, second, sign, axis))
    return everything(scene, rng)


def _lies(first: Description, second: Description, sign: float, axis: Callable[[Thing], float], scene: Scene) -> bool:
    ones, others = ([axis(scene.things[i]) for i in d.find(scene)] for d in (first, second))
    return any(sign * (one - other) > 0 for one in ones for other in others)


def comparison(scene: Scene, rng: np.random.Generator) -> Caption:
    """Says which shape or colour is more frequent; where none is, counts."""
    name = str(rng.choice(("shape", "colour")))
    ranked = _tally(scene, name).most_common()
    if ranked[0][1] == ranked[-1][1]:
        return counts(scene, rng)
    often, seldom = ranked[0][0], ranked[-1][0]
    more, fewer = (Description(**{name: kind}).words(plural=True) for (kind,) in (often, seldom))
    text = f"more {more} than {fewer}" if rng.random() < 0.5 else f"fewer {fewer} than {more}"
    return Caption(text, lambda other: _tally(other, name)[often] > _tally(other, name)[seldom])


KINDS: tuple[CaptionKind, ...] = (everything, some, counts, relation, comparison)


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five true captions, one of each kind."""
    return [kind(scene, rng).text for kind in KINDS]


def wrong(scene: Scene, kind: CaptionKind, rng: np.random.Generator) -> str | None:
    """A caption of a slightly distorted scene that is not true of this one; None if none is found."""
    for _ in range(12):
        caption = kind(distorted(scene, rng), rng)
        if not caption.holds(scene):
            return caption.text
    return None


def distorted(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one object changed in one attribute, one removed, or two (at times one) in exchanged places.

    Not every caption of it is false of `scene`: it may say something that still holds.
    """
    things = list(scene.things)
    i, what = int(rng.integers(len(things))), rng.integers(5)
    if what == 0:
        things[i] = replace(things[i], colour=_other(rng, tuple(COLOURS), things[i].colour))
    elif what == 1:
        things[i] = replace(things[i], shape=_other(rng, SHAPES, things[i].shape))
    elif what == 2:
        things[i] = replace(things[i], size=_other(rng, tuple(SIZES), things[i].size))
    elif what == 3 and len(things) > 1:
        del things[i]
    else:
        j = int(rng.integers(len(things)))
        one, other = things[i], things[j]
        things[i], things[j] = replace(one, x=other.x, y=other.y), replace(other, x=one.x, y=one.y)
    return replace(scene, things=tuple(things))


def _other(rng: np.random.Generator, names: tuple[str, ...], name: str) -> str:
    return str(rng.choice([n for n in names if n != name]))
