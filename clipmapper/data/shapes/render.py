"""Draws a scene: pixels and outlines."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from clipmapper.data.shapes.scene import SIDE, Scene, Thing

OVERSAMPLE = 4  # drawn this much larger, then reduced, for smooth edges


def _regular(corners: int, turn: float = -np.pi / 2) -> np.ndarray:
    angles = turn + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2], axis=1) / 17.5


def _box(half_width: float, half_height: float) -> np.ndarray:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (half_width, half_height)


def _cross(arm: float = 0.33) -> np.ndarray:
    quarter = np.array([[-arm, -0.95], [arm, -0.95], [arm, -arm]])
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k).T for k in range(4)])


# Outline of each shape inside the unit circle, y pointing down.
OUTLINES = {
    "circle": _regular(48) * 0.95,
    "square": _box(0.7, 0.7),
    "triangle": _regular(3),
    "rectangle": _box(0.87, 0.45),
    "star": _star(),
    "oval": _regular(48) * (1.0, 0.6),
    "diamond": np.array([[0, -1], [0.68, 0], [0, 1], [-0.68, 0]]),
    "hexagon": _regular(6, turn=0.0),
    "cross": _cross(),
    "heart": _heart(),
}


def outline(thing: Thing) -> np.ndarray:
    """Corner points [n, 2] of an object in pixels, (x, y)."""
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    turned = OUTLINES[thing.shape] @ np.array([[cos, sin], [-sin, cos]])
    return turned * thing.radius + (thing.x, thing.y)


def mask(thing: Thing, side: int = SIDE) -> np.ndarray:
    """Returns which of `side` x `side` pixels the object covers, as bool [side, side]."""
    # Pillow fills every pixel that an edge touches, which makes small objects up to 30 % too large.
    polygon = (outline(thing) * side / SIDE).ravel().tolist()
    return coco_mask.decode(coco_mask.frPyObjects([polygon], side, side)).any(axis=2)


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of SIDE x SIDE pixels."""
    image = _background(scene).resize((SIDE * OVERSAMPLE, SIDE * OVERSAMPLE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for thing in scene:
        points = [(float(x), float(y)) for x, y in outline(thing) * OVERSAMPLE]
        draw.polygon(points, fill=thing.rgb)
        if scene.outlined:
            edge = tuple(int(c * 0.6) for c in thing.rgb)
            draw.line([*points, points[0]], fill=edge, width=OVERSAMPLE, joint="curve")
    return image.reduce(OVERSAMPLE)


def _background(scene: Scene) -> Image.Image:
    rng = np.random.default_rng(scene.seed)
    first, second = (np.array(tone, dtype=np.float32) for tone in scene.tones)
    weight = _pattern(scene.background, rng)[..., None]
    pixels = first * (1 - weight) + second * weight
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.6)) if scene.background == "noise" else image


def _pattern(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Share of the second tone at each pixel, [SIDE, SIDE] in 0..1."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    period = rng.uniform(8, 24)
    if kind == "gradient":
        return (along - along.min()) / np.ptp(along)
    if kind == "noise":
        return rng.random((SIDE, SIDE), dtype=np.float32)
    if kind == "stripes":
        return (along % period < period / 2).astype(np.float32)
    if kind == "checks":
        return ((x // period + y // period) % 2).astype(np.float32)
    if kind == "spots":
        return ((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (period / 4) ** 2).astype(np.float32)
    return np.zeros((SIDE, SIDE), dtype=np.float32)
