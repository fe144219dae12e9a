"""The reader of captions: it finds every true caption true, every wrong one wrong, and says what is wrong in one."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmapper.data.shapes.captions import KINDS, captions, wrong
from clipmapper.data.shapes.language import Description
from clipmapper.data.shapes.scene import Scene, Thing, sample_scene
from clipmapper.metrics.caption_truth import claims, mentions, read_phrase, scenes_of, truth

BOTH = {"colours": [True, True], "shapes": [True, True]}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene((16, i)) for i in range(150)]


@pytest.fixture
def scene(scenes: list[Scene]) -> Scene:
    """A small red circle left of a large blue star, and below both a large red star."""
    places = {
        ("circle", "red", "small"): (20, 30),
        ("star", "blue", "large"): (90, 40),
        ("star", "red", "large"): (50, 100),
    }
    things = [Thing(*names, float(x), float(y), 14.0, 0.0, (0, 0, 0)) for names, (x, y) in places.items()]
    return replace(scenes[0], things=tuple(things))


def test_true_captions_are_true(scenes: list[Scene]) -> None:
    for i, scene in enumerate(scenes):
        for text in captions(scene, np.random.default_rng(i)):
            said = claims(text.capitalize() + ".", scene)
            assert said and all(right for _, right in said), (text, scene)


def test_wrong_captions_are_wrong(scenes: list[Scene]) -> None:
    """But for one that leaves something out: all that it says may be right."""
    found = Counter()
    for i, scene in enumerate(scenes):
        for kind in KINDS[1:]:
            text = wrong(scene, kind, np.random.default_rng(i))
            if text is not None:
                said = claims(text, scene)
                assert said is not None
                right = all(right for _, right in said)
                found.update((form, right) for form in {form for form, _ in said})
    for form in ("relations", "comparisons"):
        assert found[form, True] == 0 and found[form, False] > 20, form
    assert found["counts", False] > 2 * found["counts", True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a small red circle", {"objects": [True], "sizes": [True], "colours": [True], "shapes": [True]}),
        ("a blue circle", {"objects": [False], "colours": [True], "shapes": [True]}),
        ("There is a green star.", {"objects": [False], "colours": [False], "shapes": [True]}),
        ("a red star and a red star", {"objects": [True, False], **BOTH}),
        ("two stars and one circle", {"counts": [True, True], "shapes": [True, True]}),
        ("three red objects", {"counts": [False], "colours": [True]}),
        ("a red circle left of a blue star", {"objects": [True, True], "relations": [True], **BOTH}),
        ("a red circle right of a blue star", {"objects": [True, True], "relations": [False], **BOTH}),
        ("a red star below a red circle", {"objects": [True, True], "relations": [True], **BOTH}),
        ("a pink star above a red circle", {"objects": [False, True], "relations": [False], **BOTH, "colours": [False, True]}),
        ("more stars than circles", {"comparisons": [True], "shapes": [True, True]}),
        ("fewer red objects than blue objects", {"comparisons": [False], "colours": [True, True]}),
    ],
)  # fmt: skip
def test_what_is_said_and_what_of_it_is_right(scene: Scene, text: str, expected: dict[str, list[bool]]) -> None:
    found: dict[str, list[bool]] = {}
    for kind, right in claims(text, scene) or ():
        found.setdefault(kind, []).append(right)
    assert found == expected


@pytest.mark.parametrize("text", ["", "a", "a dog", "a red small circle", "circle red", "more stars", "two", "a red"])
def test_what_cannot_be_read(scene: Scene, text: str) -> None:
    assert claims(text, scene) is None


def test_phrases() -> None:
    assert read_phrase("an orange hexagon") == Description(colour="orange", shape="hexagon")
    assert read_phrase("small crosses") == Description(size="small", shape="cross")
    assert read_phrase("objects") == Description()


def test_mentions() -> None:
    """Each word that says an attribute, at its place; "objects" alone names everything, "rad" nothing."""
    text = "two small red circles , objects , a blue object and a rad star , a large square left of crosses ."
    found = [(mention.description.words(), mention.places) for mention in mentions(text.split())]
    assert found == [
        ("small red circle", {"size": 1, "colour": 2, "shape": 3}),
        ("blue object", {"colour": 8}),
        ("star", {"shape": 13}),
        ("large square", {"size": 16, "shape": 17}),
        ("cross", {"shape": 20}),
    ]


def test_mentions_are_what_captions_were_made_of(scenes: list[Scene]) -> None:
    """In a listing of everything every object is named in full."""
    for i, scene in enumerate(scenes[:20]):
        text = captions(scene, np.random.default_rng(i))[0].replace(",", " ,")
        named = Counter(mention.description for mention in mentions(text.split()))
        assert named == Counter(Description(thing.size, thing.colour, thing.shape) for thing in scene)


def test_shares(scene: Scene) -> None:
    shares = truth(["a red circle", "a blue circle and a red star", "a dog"], [scene] * 3)
    assert shares.pop("named") == {"readable": 3, "true": 3, "objects": 3, "colours": 3, "shapes": 3}
    assert shares == {"readable": 66.67, "true": 33.33, "objects": 66.67, "colours": 100.0, "shapes": 100.0}


def test_scenes_are_those_of_the_files(shapes_root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = json.loads((shapes_root / "annotations" / f"captions_{split}2014.json").read_text())
        given = [(entry["image_id"], entry["caption"]) for entry in content["annotations"]]
        drawn = scenes_of(shapes_root, [image for image, _ in given])
        assert drawn is not None
        shares = truth([text for _, text in given], drawn)
        assert shares["true"] == 100
    assert scenes_of(tmp_path, [1]) is None
