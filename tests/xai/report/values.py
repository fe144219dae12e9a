"""A small report whose order, best values and counts can be read off, with hostile text wherever text comes from data."""

from io import BytesIO

import numpy as np
from PIL import Image

from xai.report.data import Chart, Column, Curve, Explanation, Figure, Report, Row, Sample, Section, Step, Table

HOSTILE = (
    """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> " ' & </script><!-- `${1}` \u2028"""
)
PATCHES = ((1.0, -0.5, 0.0, 0.25), (0.0, 2.0, -1.0, 0.5), (0.1, 0.0, 0.3, -2.0))
WINDOW = (0.2, 0.0, 0.6, 1.0)  # the middle 24 pixels of 40
GAINS = {"genatt": 0.2, "wra": 0.3, "broken": None, "rollout": -0.1, "random": 0.0, "inverted": -0.3}
SAMPLES = (  # question, right, answer type
    (f"is this {HOSTILE}?", True, "yes/no"),
    ("how many cats?", False, "number"),
    ("what colour is the cat?", True, "other"),
    ("how many dogs?", True, "number"),
)


def png(pixels: np.ndarray) -> bytes:
    written = BytesIO()
    Image.fromarray(pixels).save(written, "png")
    return written.getvalue()


def picture(seed: int, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def small_report() -> Report:
    columns = (
        Column("srg", "SRG", "image", "higher", f"help {HOSTILE}", bar=True),
        Column("positive", "positive", "areas", "lower"),
        Column("passes", "passes", "cost", None),
    )
    tables = (Table("all", 40, rows(1.0)), Table("wrong", 10, rows(-1.0)))
    return Report(
        f"Report {HOSTILE}", {f"seed {HOSTILE}": HOSTILE, "date": "2026-01-12"}, columns, tables,
        tuple(chart(figure) for figure in ("accuracy", "probability")), tuple(map(sample, range(len(SAMPLES)))),
        (beside(),),
    )  # fmt: skip


def beside() -> Section:
    rows = tuple(Row(f"{name} {HOSTILE}", {"rank": Figure(rank)}) for name, rank in (("last", 2), ("first", 1)))
    return Section(
        f"Paper {HOSTILE}", f"note {HOSTILE}", (Column("rank", "rank", "paper", "lower"),), Table("all", 2, rows)
    )


def rows(sign: float) -> tuple[Row, ...]:
    return tuple(row(method, gain, sign) for method, gain in GAINS.items())


def row(method: str, gain: float | None, sign: float) -> Row:
    kind = "baseline" if method in ("random", "inverted") else "explainer"
    if gain is None:
        return Row(method, {"srg": Figure(None)}, note=f"failed {HOSTILE}", kind=kind)
    mean = sign * gain
    figures = {"srg": Figure(mean, mean - 0.05, mean + 0.05), "positive": Figure(0.5 - mean / 2), "passes": Figure(2)}
    return Row(method, figures, class_agnostic=method == "rollout", kind=kind)


def chart(figure: str) -> Chart:
    shares = (0.0, 0.5, 1.0)
    curves = tuple(curve(method, 0.1 * i) for i, method in enumerate(GAINS))
    return Chart(f"image, most relevant first {HOSTILE}", figure, shares, curves, "lower")


def curve(method: str, step: float) -> Curve:
    if method == "broken":
        return Curve(method, (None,) * 3, (None,) * 3, (None,) * 3)
    return Curve(method, (0.8, 0.6 - step, 0.1), (0.75, 0.55 - step, 0.05), (0.85, 0.65 - step, 0.15))


def sample(number: int) -> Sample:
    question, right, kind = SAMPLES[number]
    explanations = {
        "wra": Explanation(PATCHES, (("how", 0.5), (HOSTILE, -1.0)), 0.62),
        "genatt": Explanation(PATCHES[:1], (("how", 0.123456),)),
        "random": Explanation((), (("how", 1.0),)),
    }
    return Sample(
        f"{number} {HOSTILE}", png(picture(number)), question, f"answer {HOSTILE}", f"prediction {HOSTILE}", right, kind,
        explanations, WINDOW,
    )  # fmt: skip


def captioned_report() -> Report:
    """Two captions of three words, each with a map for every word: the first is explained by two methods."""
    columns, tables = (Column("srg", "SRG", "image", "higher"),), (Table("all", 2, rows(1.0)),)
    explanations = {"wra": of_caption(1.0), "genatt": of_caption(0.5)}
    captions = tuple(
        Sample(str(i), png(picture(i)), f"a {HOSTILE} {noun}", f"given {HOSTILE}", "", None, "", explanations, WINDOW)
        for i, noun in enumerate(("cat", "dog"))
    )
    return Report("Captions", {}, columns, tables, (), captions, kind="captions")


def of_caption(scale: float) -> Explanation:
    """The k-th word's map is a single patch, the k-th; and "cat" goes back on "a" more than on the other."""
    maps = tuple(tuple(tuple(scale * (3 * r + c == k) for c in range(4)) for r in range(3)) for k in range(3))
    scores = ((0.0, 0.0, 0.0), (0.7, 0.0, 0.0), (0.9, 0.1, 0.0))
    steps = tuple(Step(patches, row) for patches, row in zip(maps, scores, strict=True))
    return Explanation(PATCHES, (("a", 0.5), (HOSTILE, 0.1), ("cat", 0.0)), None, steps)
