"""Scenes: what is in them, where, in which tones; the same seed gives the same scene."""

from collections import Counter
from itertools import combinations
from math import dist, hypot

import numpy as np
import pytest

from clipmapper.data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, sample_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene((11, i)) for i in range(500)]


@pytest.fixture(scope="module")
def things(scenes: list[Scene]) -> list[Thing]:
    return [thing for scene in scenes for thing in scene.things]


def test_the_seed_alone_decides(scenes: list[Scene]) -> None:
    np.random.seed(1)  # the global generator has no say
    assert [sample_scene((11, i)) for i in reversed(range(500))] == scenes[::-1]
    assert len({repr(scene.things) for scene in scenes}) == 500
    assert sample_scene((11, 3)) != sample_scene((3, 11))


def test_number_of_objects(scenes: list[Scene]) -> None:
    numbers = Counter(len(scene.things) for scene in scenes)
    assert max(numbers) == 6
    assert sum(numbers[n] for n in (3, 4, 5, 6)) > 0.95 * len(scenes)  # fewer only where no place is left
    assert min(numbers[n] for n in (3, 4, 5, 6)) > 0.03 * len(scenes)
    assert {len(sample_scene((i,), least=1, most=1).things) for i in range(20)} == {1}
    assert list(scenes[0]) == list(scenes[0].things)


def test_objects_are_inside_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene:
            assert thing.radius < min(thing.x, thing.y) and max(thing.x, thing.y) < SIDE - thing.radius
        for one, other in combinations(scene.things, 2):
            assert hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + 2


def test_sizes_are_told_apart_by_radius(things: list[Thing]) -> None:
    radii = {size: [thing.radius for thing in things if thing.size == size] for size in SIZES}
    assert min(radii["small"]) >= 12 and max(radii["small"]) <= 15
    assert min(radii["large"]) >= 22 and max(radii["large"]) <= 29
    assert all(abs(thing.angle) <= 0.2 for thing in things)


def test_every_name_occurs_about_equally_often(scenes: list[Scene], things: list[Thing]) -> None:
    for names, found in (
        (SHAPES, Counter(thing.shape for thing in things)),
        (tuple(COLOURS), Counter(thing.colour for thing in things)),
        (BACKGROUNDS, Counter(scene.background for scene in scenes)),
    ):
        assert set(found) == set(names)
        assert min(found.values()) > 0.6 * found.total() / len(names)
        assert max(found.values()) < 1.5 * found.total() / len(names)
    assert 0.13 < np.mean([scene.outlined for scene in scenes]) < 0.27


def test_objects_of_a_scene_share_shapes_and_colours(scenes: list[Scene]) -> None:
    for name in ("shape", "colour"):
        kinds = [{getattr(thing, name) for thing in scene} for scene in scenes]
        assert max(len(kind) for kind in kinds) <= 4
        assert np.mean([len(k) < len(s.things) for k, s in zip(kinds, scenes, strict=True)]) > 0.6


def test_a_tone_is_nearest_to_its_own_colour(things: list[Thing]) -> None:
    for thing in things[::3]:
        gaps = {
            name: min(dist(thing.rgb, np.add(painted, s * np.subtract(pure, painted))) for s in np.linspace(0, 1, 21))
            for name, (painted, pure) in COLOURS.items()
        }
        assert min(gaps, key=gaps.__getitem__) == thing.colour, thing


def test_background_tones_are_alike_and_far_from_every_object(scenes: list[Scene]) -> None:
    contrasts = [min(dist(tone, thing.rgb) for tone in scene.tones for thing in scene) for scene in scenes]
    assert np.mean([contrast > 90 for contrast in contrasts]) > 0.99
    assert min(contrasts) > 60
    assert max(abs(a - b) for scene in scenes for a, b in zip(*scene.tones, strict=True)) <= 31  # 30 and rounding
