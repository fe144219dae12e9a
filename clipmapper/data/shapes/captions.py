"""Captions of a scene, true or wrong in one detail (hard negatives for contrastive pretraining)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clipmapper.data.shapes.language import NUMBERS, Description, listing, with_article
from clipmapper.data.shapes.questions import CLEAR, RELATIONS
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIZES, Scene, Thing

CaptionKind = Callable[[Scene, np.random.Generator], str]


def _naming(thing: Thing, *names: str) -> str:
    return Description(**{name: getattr(thing, name) for name in names}).words()


def everything(scene: Scene, rng: np.random.Generator) -> str:
    """All objects with all attributes."""
    order = rng.permutation(len(scene.things))
    return listing([with_article(_naming(scene.things[i], "size", "colour", "shape")) for i in order])


def some(scene: Scene, rng: np.random.Generator) -> str:
    """Two objects by colour and shape."""
    chosen = rng.permutation(len(scene.things))[:2]
    opening = str(rng.choice(("a picture of ", "an image with ", "there is ", "")))
    return opening + listing([with_article(_naming(scene.things[i], "colour", "shape")) for i in chosen])


def counts(scene: Scene, rng: np.random.Generator) -> str:
    """How many objects of each shape, or of each colour."""
    name = str(rng.choice(("shape", "colour")))
    numbers = Counter(getattr(thing, name) for thing in scene)
    phrases = [f"{NUMBERS[n]} {Description(**{name: kind}).words(plural=n > 1)}" for kind, n in sorted(numbers.items())]
    return listing([phrases[i] for i in rng.permutation(len(phrases))])


def relation(scene: Scene, rng: np.random.Generator) -> str:
    """Where one object lies seen from another."""
    for i, j in rng.permutation([[i, j] for i in range(len(scene.things)) for j in range(len(scene.things))]):
        for k in rng.permutation(len(RELATIONS)):
            words, sign, axis = RELATIONS[k]
            one, other = scene.things[i], scene.things[j]
            if sign * (axis(one) - axis(other)) > CLEAR:
                first, second = (_naming(t, "colour", "shape") for t in (one, other))
                return f"{with_article(first)} {words.replace('[', '').replace(']', '')} {with_article(second)}"
    return everything(scene, rng)


def comparison(scene: Scene, rng: np.random.Generator) -> str:
    """Which shape or colour is more frequent."""
    name = str(rng.choice(("shape", "colour")))
    ranked = Counter(getattr(thing, name) for thing in scene).most_common()
    if len(ranked) < 2 or ranked[0][1] == ranked[-1][1]:
        return counts(scene, rng)
    often, seldom = (Description(**{name: kind}).words(plural=True) for kind in (ranked[0][0], ranked[-1][0]))
    return f"more {often} than {seldom}" if rng.random() < 0.5 else f"fewer {seldom} than {often}"


KINDS: tuple[CaptionKind, ...] = (everything, some, counts, relation, comparison)


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five true captions, one of each kind."""
    return [kind(scene, rng) for kind in KINDS]


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
