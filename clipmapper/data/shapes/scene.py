"""A scene: objects with a shape, a colour, a size and a place, on a background."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]
SIDE = 128  # pixels of a scene's side

SHAPES = ("circle", "square", "triangle", "rectangle", "star", "oval", "diamond", "hexagon", "cross", "heart")
SIZES = {"small": (12.0, 15.0), "large": (22.0, 29.0)}  # radius of the bounding circle in pixels
# Two anchors a colour name: the tone people paint with and the pure screen colour; objects lie between them.
COLOURS = {
    "red": ((205, 40, 45), (255, 0, 0)),
    "green": ((40, 140, 60), (0, 225, 0)),
    "blue": ((45, 95, 205), (0, 0, 255)),
    "yellow": ((235, 205, 50), (255, 255, 0)),
    "orange": ((240, 130, 35), (255, 165, 0)),
    "purple": ((135, 65, 180), (128, 0, 128)),
    "pink": ((240, 120, 185), (255, 192, 203)),
    "brown": ((125, 75, 35), (139, 69, 19)),
    "gray": ((120, 120, 125), (150, 150, 150)),
    "black": ((30, 30, 32), (0, 0, 0)),
    "white": ((240, 240, 238), (255, 255, 255)),
    "cyan": ((50, 190, 205), (0, 255, 255)),
}
BACKGROUNDS = ("plain", "gradient", "noise", "stripes", "checks", "spots")
CONTRAST = 90.0  # least RGB distance between an object and every background tone


@dataclass(frozen=True)
class Thing:
    """One object; `x`, `y`, `radius` in pixels, `angle` in radians, `rgb` its exact tone."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: RGB


@dataclass(frozen=True)
class Scene:
    """Objects that do not overlap, on a `background` of two `tones`."""

    things: tuple[Thing, ...]
    background: str
    tones: tuple[RGB, RGB]
    outlined: bool
    seed: int

    def __iter__(self) -> Iterator[Thing]:
        return iter(self.things)


def sample_scene(seed: tuple[int, ...], least: int = 3, most: int = 6) -> Scene:
    """A scene that depends on `seed` alone, with `least` to `most` objects (fewer where no free place is left)."""
    rng = np.random.default_rng(seed)
    # A small palette makes objects share shapes and colours, so that counting and telling apart are needed.
    shapes = rng.choice(SHAPES, size=rng.integers(2, 5), replace=False)
    colours = rng.choice(tuple(COLOURS), size=rng.integers(2, 5), replace=False)
    things: list[Thing] = []
    for _ in range(int(rng.integers(least, most + 1))):
        thing = _place(rng, str(rng.choice(shapes)), str(rng.choice(colours)), things)
        if thing is not None:
            things.append(thing)
    return Scene(
        things=tuple(things),
        background=str(rng.choice(BACKGROUNDS)),
        tones=_tones(rng, [thing.rgb for thing in things]),
        outlined=bool(rng.random() < 0.2),
        seed=int(rng.integers(2**31)),
    )


def _place(rng: np.random.Generator, shape: str, colour: str, others: list[Thing]) -> Thing | None:
    size = str(rng.choice(tuple(SIZES)))
    for _ in range(40):
        radius = float(rng.uniform(*SIZES[size]))
        x, y = (float(v) for v in rng.uniform(radius + 1, SIDE - radius - 1, size=2))
        if all(np.hypot(x - o.x, y - o.y) > radius + o.radius + 2 for o in others):
            angle = float(rng.uniform(-0.2, 0.2))
            return Thing(shape, colour, size, x, y, radius, angle, _tone(rng, colour))
    return None


def _tone(rng: np.random.Generator, colour: str) -> RGB:
    painted, pure = (np.array(anchor) for anchor in COLOURS[colour])
    mix = painted + rng.random() * (pure - painted) + rng.uniform(-10, 10, size=3)
    return _rgb(mix)


def _tones(rng: np.random.Generator, objects: list[RGB]) -> tuple[RGB, RGB]:
    """Two similar background tones, both far from every object's tone."""
    best, best_distance = None, -1.0
    for _ in range(30):
        grey = rng.random() < 0.5
        base = np.repeat(rng.uniform(-60, 315), 3) if grey else rng.uniform(0, 255, size=3)
        pair = _rgb(base), _rgb(base + rng.uniform(-30, 30, size=1 if grey else 3))
        distance = min(np.linalg.norm(np.subtract(tone, rgb)) for tone in pair for rgb in objects)
        if distance > best_distance:
            best, best_distance = pair, float(distance)
        if distance > CONTRAST:
            break
    assert best is not None
    return best


def _rgb(values: np.ndarray) -> RGB:
    r, g, b = np.broadcast_to(np.clip(np.rint(values), 0, 255).astype(int), 3)
    return int(r), int(g), int(b)
