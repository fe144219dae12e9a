"""A batch of samples explained at once against one after the other."""

from typing import Any

from benchmarks.entry import Entry, gain
from benchmarks.explainers import TOGETHER, explain_all
from benchmarks.models import clip
from benchmarks.timing import in_turn
from clipmapper.models.clip import SHAPES_CLIP
from xai import explain, similarity


def run(quick: bool) -> list[Entry]:
    sizes = [(SHAPES_CLIP, 2)] if quick else [(SHAPES_CLIP, 16), ("ViT-B-32", 4)]
    return [entry for name, batch in sizes for entry in _of(name, batch, 1 if quick else 3)]


def _of(name: str, batch: int, rounds: int) -> list[Entry]:
    model, (images, texts) = clip(name, batch)
    alone = [(image[None], text[None]) for image, text in zip(images, texts, strict=True)]

    def one_by_one() -> None:
        for sample in alone:
            explain_all(model, sample)

    def method_by_method() -> None:
        _with_each(model, alone[0])  # counted as all

    runs = {"batch": lambda: explain_all(model, (images, texts)), "alone": one_by_one, "each": method_by_method}
    times = in_turn(runs, rounds)
    times["each"] = [seconds * batch for seconds in times["each"]]
    what = f"{name}: {batch} samples, {len(TOGETHER)} methods at once"
    return [
        gain(f"{what} / one sample after the other", times, "batch", "alone", 3),
        gain(f"{what} / also method by method", times, "batch", "each", note="each with passes of its own"),
    ]


def _with_each(model: Any, sample: tuple) -> None:
    for method, options in TOGETHER:
        explain(model, sample, method, similarity(), **options)
