"""Pixels: colours, masks, orientations, backgrounds. Areas and masks are derived anew here."""

from dataclasses import replace
from math import cos, pi, sin, sqrt

import numpy as np
import pytest

from clipmapper.data.shapes.render import OUTLINES, mask, outline, render
from clipmapper.data.shapes.scene import BACKGROUNDS, SHAPES, SIDE, Scene, Thing, sample_scene

AREAS = {  # of each shape in the unit circle, by school geometry
    "circle": 0.95**2 * 24 * sin(2 * pi / 48),
    "square": 1.4**2,
    "triangle": 3 * sqrt(3) / 4,
    "rectangle": 4 * 0.87 * 0.45,
    "star": 10 * 0.42 * sin(pi / 5) / 2,
    "oval": 0.6 * 24 * sin(2 * pi / 48),
    "diamond": 2 * 0.68,
    "hexagon": 3 * sqrt(3) / 2,
    "cross": 2 * (2 * 0.95) * (2 * 0.33) - (2 * 0.33) ** 2,
    "heart": 180 * pi / 17.5**2,  # of the curve 16 sin³t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t: 180 pi
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene((12, i)) for i in range(150)]


def big(shape: str, angle: float = 0.0) -> Thing:
    return Thing(shape, "red", "large", x=64, y=64, radius=50, angle=angle, rgb=(255, 0, 0))


def alone(thing: Thing) -> Scene:
    return Scene((thing,), "plain", ((255, 255, 255),) * 2, outlined=False, seed=0)


def inside(thing: Thing, side: int = SIDE) -> np.ndarray:
    """Even-odd rule at every pixel's centre."""
    y, x = (np.mgrid[:side, :side] + 0.5) * (SIDE / side)
    corners = outline(thing)
    crossings = np.zeros((side, side), dtype=int)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            crossings += ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return crossings % 2 == 1


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def neighbourhood(covered: np.ndarray, every: bool) -> np.ndarray:
    """Pixels whose 5 x 5 neighbourhood is covered wholly (`every`) or in part: sharp tips blur over two pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(covered, 2), (5, 5))
    return windows.all(axis=(2, 3)) if every else windows.any(axis=(2, 3))


def rows(covered: np.ndarray) -> np.ndarray:
    """Width of every covered row, from the top."""
    widths = covered.sum(axis=1)
    return widths[widths > 0]


def test_every_shape_has_an_outline_in_the_unit_circle() -> None:
    assert set(OUTLINES) == set(SHAPES) == set(AREAS)
    for shape, corners in OUTLINES.items():
        reach = np.hypot(*np.asarray(corners).T)
        assert 0.9 < reach.max() < 1.021, shape  # the heart reaches 2 % beyond


def test_an_object_shows_its_exact_tone_at_its_centre(scenes: list[Scene]) -> None:
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.outlined for scene in scenes} == {False, True}
    for scene in scenes:
        pixels = np.asarray(render(scene))
        assert pixels.shape == (SIDE, SIDE, 3)
        for thing in scene:
            assert tuple(pixels[int(thing.y), int(thing.x)]) == thing.rgb
            assert mask(thing)[int(thing.y), int(thing.x)]


def test_masks_do_not_overlap(scenes: list[Scene]) -> None:
    assert max(sum(mask(thing).astype(int) for thing in scene).max() for scene in scenes) == 1


def test_mask_area_is_the_area_of_the_shape(scenes: list[Scene]) -> None:
    things = [thing for scene in scenes for thing in scene]
    ratios = np.array([mask(thing).sum() / (AREAS[thing.shape] * thing.radius**2) for thing in things])
    assert abs(ratios - 1).max() < 0.08 and np.mean(abs(ratios - 1) < 0.06) > 0.98
    for shape in SHAPES:
        assert np.mean([r for r, thing in zip(ratios, things, strict=True) if thing.shape == shape]) == pytest.approx(
            1, abs=0.02
        ), shape


def test_masks_lie_where_the_outlines_are(scenes: list[Scene]) -> None:
    for thing in (thing for scene in scenes[:60] for thing in scene):
        assert mask(thing).dtype == bool
        assert overlap(mask(thing), inside(thing)) > 0.92, thing
        assert overlap(mask(thing, 2 * SIDE), inside(thing, 2 * SIDE)) > 0.96, thing


def test_pixels_change_from_object_to_background_at_the_mask(scenes: list[Scene]) -> None:
    plain = [scene for scene in scenes if scene.background == "plain" and not scene.outlined]
    assert plain
    for scene in plain:
        pixels = np.asarray(render(scene))
        masks = [mask(thing) for thing in scene]
        for thing, covered in zip(scene, masks, strict=True):
            assert (pixels[neighbourhood(covered, every=True)] == thing.rgb).all()
        nothing = ~neighbourhood(np.any(masks, axis=0), every=False)
        assert (pixels[nothing] == scene.tones[0]).all()


def test_outlined_objects_have_a_dark_edge() -> None:
    scene = replace(alone(big("square")), outlined=True)
    pixels = np.asarray(render(scene)).astype(int)
    assert pixels[64, 64].tolist() == [255, 0, 0]
    assert pixels[64, int(64 - 0.7 * 50)].tolist() == pytest.approx([153, 0, 0], abs=60)  # 0.6 of the tone
    assert np.asarray(render(alone(big("square"))))[64, 30].tolist() == [255, 0, 0]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_stay_between_their_tones_and_off_the_objects(scenes: list[Scene], background: str) -> None:
    for scene in (scene for scene in scenes if scene.background == background):
        pixels = np.asarray(render(scene)).astype(int)
        free = pixels[~np.any([neighbourhood(mask(thing), every=False) for thing in scene], axis=0)]
        low, high = np.min(scene.tones, axis=0), np.max(scene.tones, axis=0)
        assert (free >= low - 1).all() and (free <= high + 1).all()
        if background == "plain" or (high - low).max() > 4:
            assert (np.ptp(free, axis=0).max() > 2) == (background != "plain")
        for thing in scene:
            assert np.linalg.norm(free - thing.rgb, axis=1).min() > 75


def test_rendering_again_gives_the_same_pixels(scenes: list[Scene]) -> None:
    assert all(
        render(scene).tobytes() == render(sample_scene((12, i))).tobytes() for i, scene in enumerate(scenes[:20])
    )
    noisy = next(scene for scene in scenes if scene.background == "noise")
    assert render(noisy).tobytes() != render(replace(noisy, seed=noisy.seed + 1)).tobytes()


def test_triangle_and_star_point_up() -> None:
    for shape in ("triangle", "star"):
        covered = mask(big(shape))
        top = np.argmax(covered.any(axis=1))
        assert top == pytest.approx(14, abs=2)  # y = 64 - 50
        assert np.flatnonzero(covered[top + 1]).mean() == pytest.approx(63.5, abs=1)
    widths = rows(mask(big("triangle")))
    assert len(widths) == pytest.approx(75, abs=2) and (np.diff(widths[:-2]) >= 0).all()


def test_heart_has_its_tip_below_and_its_notch_above() -> None:
    covered = mask(big("heart"))
    widths = rows(covered)
    assert np.argmax(widths) < len(widths) / 2 and widths[-2] < 0.1 * widths.max()
    first = [np.argmax(covered[:, x]) for x in (40, 64, 88)]
    assert first[1] > first[0] + 5 and first[1] > first[2] + 5
    assert covered[:, 64].nonzero()[0].max() == covered.any(axis=1).nonzero()[0].max()


@pytest.mark.parametrize(
    ("shape", "wide", "high"),
    [
        ("circle", 95, 95),
        ("square", 70, 70),
        ("rectangle", 87, 45),
        ("oval", 100, 60),
        ("diamond", 68, 100),
        ("hexagon", 100, 86.6),
        ("cross", 95, 95),
    ],
)
def test_width_and_height(shape: str, wide: float, high: float) -> None:
    covered = mask(big(shape))
    extent = covered.any(axis=0).sum(), covered.any(axis=1).sum()
    assert extent == pytest.approx((wide, high), abs=2.1)
    assert overlap(covered, covered[::-1]) > 0.95 and overlap(covered, covered[:, ::-1]) > 0.95


def test_cross_has_four_arms() -> None:
    covered = mask(big("cross"))
    assert all(covered[y, x] for x, y in [(20, 64), (108, 64), (64, 20), (64, 108)])
    assert not any(covered[y, x] for x, y in [(30, 30), (98, 30), (30, 98), (98, 98)])


def test_positive_angles_turn_clockwise() -> None:
    tip = outline(big("triangle", angle=0.2))[0]
    assert tip.tolist() == pytest.approx([64 + 50 * sin(0.2), 64 - 50 * cos(0.2)])
    left, right = (mask(big("triangle", angle))[14:30].nonzero()[1].mean() for angle in (-0.2, 0.2))
    assert left < 60 < 68 < right
