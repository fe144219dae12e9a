"""The truth of captions of Shapes: each thing a caption says, read by the grammar of Shapes, against the scene."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipmapper.config import MOST_SCENES
from clipmapper.data.shapes.captions import RELATIONS
from clipmapper.data.shapes.language import NUMBERS, Description
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIZES, Scene, sample_scene
from clipmapper.data.shapes.write import read_settings

OPENING = re.compile("^(a picture of|an image with|there is) ")
RELATION = re.compile(f"(.+) ({'|'.join(words for words, _, _ in RELATIONS)}) (.+)")
COMPARISON = re.compile("(more|fewer) (.+) than (.+)")
NOUNS: dict[str, str | None] = {"object": None, "objects": None}
NOUNS |= {Description(shape=shape).words(plural=plural): shape for shape in SHAPES for plural in (False, True)}

Claim = tuple[str, bool]  # what kind of thing is said, and whether it is right
KINDS = ("size", "colour", "shape")  # of words that say an attribute


class Mention(NamedTuple):
    """Objects that a caption names, and which of its words say what of them: the place of each by its kind."""

    description: Description
    places: dict[str, int]


def truth(captions: Iterable[str], scenes: Iterable[Scene]) -> dict[str, Any]:
    """In percent: captions that can be read and that are true as a whole, and of each kind of claim those that are right.

    `objects`: phrases that fit an object of the scene, each object once; `colours`, `shapes`, `sizes`: words that fit some
    object; `counts`, `relations`, `comparisons`: statements that hold. `named` has how many of each there are.
    """
    claims_by_kind: dict[str, list[bool]] = defaultdict(list)
    for text, scene in zip(captions, scenes, strict=True):
        said = claims(text, scene)
        claims_by_kind["readable"].append(said is not None)
        claims_by_kind["true"].append(said is not None and all(right for _, right in said))
        for kind, right in said or ():
            claims_by_kind[kind].append(right)
    shares = {kind: round(100 * sum(rights) / len(rights), 2) for kind, rights in claims_by_kind.items()}
    return shares | {"named": {kind: len(rights) for kind, rights in claims_by_kind.items()}}


def claims(text: str, scene: Scene) -> list[Claim] | None:
    """Returns all that a caption says of the scene; None if it is not in the grammar."""
    text = text.lower().strip().removesuffix(".").strip()
    if match := RELATION.fullmatch(text):
        return _relation(match[1], match[2], match[3], scene)
    if match := COMPARISON.fullmatch(text):
        return _comparison(match[1] == "more", match[2], match[3], scene)
    phrases = re.split(", | and ", OPENING.sub("", text))
    if phrases[0].split(" ")[0] in NUMBERS:
        return _counts(phrases, scene)
    return _listing(phrases, scene)


def read_phrase(phrase: str) -> Description | None:
    """ "a small red circle", "red circles", "objects" as a description; None for anything else."""
    *words, noun = re.sub("^an? ", "", phrase).split(" ")
    size = words.pop(0) if words and words[0] in SIZES else None
    colour = words.pop(0) if words and words[0] in COLOURS else None
    return Description(size, colour, NOUNS[noun]) if not words and noun in NOUNS else None


def mentions(words: Sequence[str]) -> list[Mention]:
    """Returns what the words of a caption, in lower case, name by an attribute at least, in their order."""
    results = []
    for end, noun in enumerate(words):
        first = end
        while first and words[first - 1] in (*COLOURS, *SIZES):
            first -= 1
        description = read_phrase(" ".join(words[first : end + 1])) if noun in NOUNS else None
        if description is not None and description != Description():
            attributes = [kind for kind in KINDS if getattr(description, kind) is not None]
            last = end if description.shape else end - 1  # "objects" says nothing
            results.append(
                Mention(description, dict(zip(attributes, range(last - len(attributes) + 1, last + 1), strict=True)))
            )
    return results


def _attributes(description: Description, scene: Scene) -> list[Claim]:
    kinds = {"sizes": "size", "colours": "colour", "shapes": "shape"}
    given = {kind: (name, getattr(description, name)) for kind, name in kinds.items()}
    return [(k, any(getattr(t, n) == value for t in scene)) for k, (n, value) in given.items() if value is not None]


def _listing(phrases: list[str], scene: Scene) -> list[Claim] | None:
    descriptions = [read_phrase(phrase) for phrase in phrases]
    said: list[Claim] = []
    for description, times in Counter(descriptions).items():
        if description is None:
            return None
        there = len(description.find(scene))
        said += [("objects", k < there) for k in range(times)]
        said += times * _attributes(description, scene)
    return said


def _counts(phrases: list[str], scene: Scene) -> list[Claim] | None:
    said: list[Claim] = []
    for number, _, phrase in (phrase.partition(" ") for phrase in phrases):
        description = read_phrase(phrase)
        if number not in NUMBERS or description is None:
            return None
        said += [("counts", NUMBERS.index(number) == len(description.find(scene))), *_attributes(description, scene)]
    return said


def _relation(first: str, words: str, second: str, scene: Scene) -> list[Claim] | None:
    named = _listing([first, second], scene)
    one, other = read_phrase(first), read_phrase(second)
    if named is None or one is None or other is None:
        return None
    sign, axis = next((sign, axis) for name, sign, axis in RELATIONS if name == words)
    pairs = [(scene.things[i], scene.things[j]) for i in one.find(scene) for j in other.find(scene)]
    return [*named, ("relations", any(sign * (axis(a) - axis(b)) > 0 for a, b in pairs))]


def _comparison(more: bool, first: str, second: str, scene: Scene) -> list[Claim] | None:
    one, other = read_phrase(first), read_phrase(second)
    if one is None or other is None:
        return None
    gap = len(one.find(scene)) - len(other.find(scene))
    return [("comparisons", gap > 0 if more else gap < 0), *_attributes(one, scene), *_attributes(other, scene)]


def scenes_of(root: Path, image_ids: Iterable[int]) -> list[Scene] | None:
    """The scenes of images of Shapes, drawn anew from its seed; None if the data set is another one."""
    path = root / "shapes.json"
    if not path.is_file():
        return None
    seed = read_settings(path).seed
    return [sample_scene((seed, *divmod(image_id - 1, MOST_SCENES))) for image_id in image_ids]
