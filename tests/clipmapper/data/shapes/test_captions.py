"""Captions: a small interpreter reads each text and says whether it is true of a scene."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from clipmapper.data.shapes.captions import KINDS, captions, distorted, wrong
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIZES, Scene, Thing, sample_scene

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
PLURALS = {f"{shape}s": shape for shape in SHAPES} | {"crosses": "cross"}
NAMES = tuple(kind.__name__ for kind in KINDS)


def named(phrase: str, scene: Scene) -> list[int]:
    """Indices of the objects that "small red circles" or "object" stands for."""
    wanted = {PLURALS.get(word, word) for word in phrase.split()} - {"object", "objects"}
    assert wanted <= {*SHAPES, *COLOURS, *SIZES}, phrase
    return [i for i, t in enumerate(scene) if wanted <= {t.size, t.colour, t.shape}]


def phrases(text: str) -> list[str]:
    """The entries of "a, b and c"."""
    assert " and " not in text.rpartition(" and ")[0]
    return re.split(", | and ", text)


def without_article(phrase: str) -> str:
    article, rest = phrase.split(" ", 1)
    assert article == ("an" if rest[0] in "aeiou" else "a")
    return rest


def _relation(scene: Scene, first: str, word: str, second: str) -> bool:
    """Whether some such pair of objects lies so, y pointing down."""
    pairs = [
        (scene.things[i], scene.things[j])
        for i in named(without_article(first), scene)
        for j in named(without_article(second), scene)
        if i != j
    ]
    gaps = {
        "left of": [other.x - one.x for one, other in pairs],
        "right of": [one.x - other.x for one, other in pairs],
        "above": [other.y - one.y for one, other in pairs],
        "below": [one.y - other.y for one, other in pairs],
    }
    return max(gaps[word], default=0) > 0


def _counts(scene: Scene, text: str) -> bool:
    """Whether every number is right and no object is left out."""
    stated = [phrase.split(" ", 1) for phrase in phrases(text)]
    assert all((number != "one") == noun.endswith(("s", "objects")) or noun == "cross" for number, noun in stated)
    right = all(NUMBERS[number] == len(named(noun, scene)) for number, noun in stated)
    return right and sum(NUMBERS[number] for number, _ in stated) == len(scene.things)


def meaning(text: str, scene: Scene) -> tuple[str, bool]:
    """The kind of a caption by its form, and whether it is true of the scene."""
    if match := re.fullmatch(r"(.+) (left of|right of|above|below) (.+)", text):
        return "relation", _relation(scene, *match.groups())
    if match := re.fullmatch(r"(more|fewer) (.+) than (.+)", text):
        a, b = (len(named(match[k], scene)) for k in (2, 3))
        return "comparison", a > b if match[1] == "more" else a < b
    if text.split()[0] in NUMBERS:
        return "counts", _counts(scene, text)
    text = re.sub("^(a picture of|an image with|there is) ", "", text)
    said = Counter(tuple(without_article(phrase).split()) for phrase in phrases(text))
    if {len(words) for words in said} == {3}:
        return "everything", said == Counter((t.size, t.colour, t.shape) for t in scene)
    return "some", said.total() <= 2 and said <= Counter((t.colour, t.shape) for t in scene)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene((15, i)) for i in range(400)]


def test_captions_are_true_and_of_every_kind(scenes: list[Scene]) -> None:
    found = {name: Counter() for name in NAMES}
    for i, scene in enumerate(scenes):
        texts = captions(scene, np.random.default_rng(i))
        assert len(texts) == len(NAMES) == 5
        for name, text in zip(NAMES, texts, strict=True):
            form, true = meaning(text, scene)
            assert true, (text, scene)
            found[name][form] += 1
    for name in ("everything", "some", "counts", "relation"):
        assert found[name][name] >= 0.99 * len(scenes)
    assert found["comparison"]["comparison"] > 0.6 * len(scenes)  # where all are equally many, counts
    assert found["comparison"].total() == found["comparison"]["comparison"] + found["comparison"]["counts"]


def test_relations_are_clear_and_of_all_directions(scenes: list[Scene]) -> None:
    said = Counter()
    for i, scene in enumerate(scenes):
        if len(scene.things) == 1:
            continue
        text = KINDS[NAMES.index("relation")](scene, np.random.default_rng(i)).text
        first, word, second = re.fullmatch(r"(.+) (left of|right of|above|below) (.+)", text).groups()
        axis, sign = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}[word]
        gaps = [
            sign * (getattr(scene.things[i], axis) - getattr(scene.things[j], axis))
            for i in named(without_article(first), scene)
            for j in named(without_article(second), scene)
        ]
        assert max(gaps) > 12, (text, scene)
        said[word] += 1
    assert min(said[word] for word in ("left of", "right of", "above", "below")) > 0.15 * len(scenes)


def test_the_draw_of_chance_decides(scenes: list[Scene]) -> None:
    one, same, other = (captions(scenes[0], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_a_distortion_changes_one_thing(scenes: list[Scene]) -> None:
    changes = Counter()
    for i, scene in enumerate(scenes):
        result = distorted(scene, np.random.default_rng(i))
        assert replace(result, things=scene.things) == scene
        changes[_change(scene.things, result.things)] += 1
    assert min(changes[name] for name in ("colour", "shape", "size", "removed", "moved")) > 0.1 * len(scenes)
    assert changes["nothing"] < 0.1 * len(scenes)


def _change(before: tuple[Thing, ...], after: tuple[Thing, ...]) -> str:
    if len(after) < len(before):
        assert len(after) == len(before) - 1 and set(after) < set(before)
        return "removed"
    different = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    if len(different) == 2:
        (a, a_after), (b, b_after) = different
        assert a_after == replace(a, x=b.x, y=b.y) and b_after == replace(b, x=a.x, y=a.y)
        return "moved"
    if not different:
        return "nothing"
    ((old, new),) = different
    (name,) = (name for name in ("colour", "shape", "size", "x", "y") if getattr(old, name) != getattr(new, name))
    return name


def test_wrong_captions_are_wrong(scenes: list[Scene]) -> None:
    found = Counter()
    for i, scene in enumerate(scenes):
        for name, kind in zip(NAMES, KINDS, strict=True):
            text = wrong(scene, kind, np.random.default_rng(i))
            if text is not None:
                assert not meaning(text, scene)[1], (name, text, scene)
                found[name] += 1
    assert min(found[name] for name in NAMES) > 0.8 * len(scenes)


def test_a_caption_knows_of_which_scenes_it_is_true(scenes: list[Scene]) -> None:
    answers = {name: Counter() for name in NAMES}
    for i, scene in enumerate(scenes):
        for name, kind in zip(NAMES, KINDS, strict=True):
            caption = kind(scene, np.random.default_rng(i))
            for other in (scene, distorted(scene, np.random.default_rng(i))):
                assert caption.holds(other) == meaning(caption.text, other)[1], (caption.text, other)
                answers[name][caption.holds(other)] += 1
    assert all(min(answer[True], answer[False]) > 10 for answer in answers.values())


def test_one_object_has_captions_too() -> None:
    for i in range(20):
        scene = sample_scene((16, i), least=1, most=1)
        (thing,) = scene.things
        texts = captions(scene, np.random.default_rng(i))
        assert all(meaning(text, scene)[1] for text in texts)
        assert len(distorted(scene, np.random.default_rng(i)).things) == 1
        assert texts[0].split()[1:] == [thing.size, thing.colour, thing.shape]
