"""How time grows with layers, tokens, samples a batch and samples of an evaluation; `benchmarks.plots` draws it."""

import math
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.entry import Entry, Point
from benchmarks.models import forward_backward, vit
from benchmarks.perturbation import Bench
from benchmarks.timing import Run, in_turn
from xai import explain, given

METHODS = ("genatt", "wra", "transatt", "attn_lrp")
SMALL = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "patch_size": 16, "image_size": 112}
SIZES: dict[str, Sequence[int]] = {
    "layers": (3, 6, 12, 24),
    "patches": (16, 49, 100, 196, 400),
    "batch": (1, 4, 16, 32),
}
Sized = Callable[[int], tuple[nn.Module, Tensor]]


def run(quick: bool) -> list[Entry]:
    rounds = 1 if quick else 3
    patch = 8 if quick else 16
    sizes = {"layers": (1, 2), "patches": (4, 16), "batch": (1, 2)} if quick else SIZES
    made: dict[str, Sized] = {
        "layers": lambda n: vit(quick, 4, num_hidden_layers=n, **({} if quick else SMALL)),
        "patches": lambda n: vit(quick, 4, **{**({} if quick else SMALL), "image_size": patch * math.isqrt(n)}),
        "batch": lambda n: vit(quick, n, **({} if quick else SMALL)),
    }
    found = [entry for axis in made for entry in _along(axis, sizes[axis], made[axis], rounds)]
    return [*found, _samples((1, 2) if quick else (2, 4, 8), rounds, methods=2 if quick else 4)]


def _along(axis: str, sizes: Sequence[int], sized: Sized, rounds: int) -> list[Entry]:
    points: dict[str, list[Point]] = {name: [] for name in METHODS}
    for size in sizes:
        model, pixels = sized(size)
        runs: dict[str, Run] = {"both passes": lambda m=model, x=pixels: forward_backward(m, x)}  # type: ignore[misc]
        for name in METHODS:
            runs[name] = lambda n=name, m=model, x=pixels: explain(m, x, n, given(0))  # type: ignore[misc]
        times = {name: median(found) for name, found in in_turn(runs, rounds).items()}
        for name in METHODS:
            points[name].append((size, times[name], times["both passes"]))
    return [_grown(f"{name} / forward + backward", axis, found) for name, found in points.items()]


def _samples(sizes: Sequence[int], rounds: int, methods: int) -> Entry:
    """Of an evaluation: the perturbation engine by itself, of images."""
    points = []
    for size in sizes:
        bench, kept = Bench(size, "b"), dict[str, Tensor]()
        engine = bench.runs("image", "recommended", methods, kept)["engine"]
        points.append((float(size), median(in_turn({"engine": engine}, rounds)["engine"]), math.nan))
    return _grown(f"perturbation engine, {methods} methods", "samples", points)


def _grown(what: str, axis: str, points: Sequence[Point]) -> Entry:
    """At the largest size, with the exponent of growth."""
    _, ours, other = points[-1]
    known = not math.isnan(other)
    note = f"grows as {axis}^{exponent(points):.2f}"
    what = f"{what}, {points[-1][0]:g} {axis}"
    return Entry(
        what,
        ours,
        other if known else None,
        "s",
        ours / other if known else None,
        None,
        None,
        note,
        axis,
        tuple(points),
    )


def exponent(points: Sequence[Point]) -> float:
    """The slope of log time over log size, by least squares."""
    x, y = (torch.tensor([math.log(point[i]) for point in points], dtype=torch.float64) for i in (0, 1))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))
