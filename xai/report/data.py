"""Values of a report of explainers: whoever measures fills it, the page shows it.

Numbers are finite or None (undefined, not measured): a report is written as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval; the ends are None where there is none, such as of a cost."""

    mean: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """A figure that tables have of each method."""

    key: str
    label: str
    group: str  # columns of one group stand together, such as "image, accuracy" or "cost"
    better: Literal["higher", "lower"] | None
    help: str = ""  # what it is, with its unit
    bar: bool = False  # drawn to scale with its interval: for the few figures that decide
    share: bool = True  # a share of one, which texts show in percent
    printed: bool = True  # in the table on the screen, too


@dataclass(frozen=True)
class Row:
    """A method's figures by `Column.key`; what is not there was not measured."""

    method: str
    figures: Mapping[str, Figure]
    class_agnostic: bool = False  # the method ignores which answer is explained
    note: str = ""  # such as why it failed, or for how many samples it is undefined
    kind: Literal["explainer", "baseline"] = "explainer"  # baselines are random and inverted maps


@dataclass(frozen=True)
class Table:
    """All methods on some of the samples; `stratum` is "all" or what they have in common."""

    stratum: str
    samples: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """Means [steps] with the ends of their 95 % intervals."""

    method: str
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True)
class Chart:
    """Curves of all methods over the same `shares` removed, 0 to 1."""

    title: str  # such as "image, most relevant first"
    figure: str  # what goes up: "accuracy" or "probability"
    shares: tuple[float, ...]
    curves: tuple[Curve, ...]
    better: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class Step:
    """One word of a caption explained: its patches, and the score of each word of the caption, 0 for those not yet written."""

    patches: Rows
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Explanation:
    """One method on one sample; scores in the method's own unit, negative ones speak against the answer.

    A caption's `patches` and `words` are of the whole, and it has a step for each of its words.
    """

    patches: Rows  # rows of columns
    words: tuple[tuple[str, float], ...]
    image_share: float | None = None  # of the positive relevance, how much is on the image; the rest is on the words
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A question, or an image with its caption, to browse. All strings come from data."""

    id: str
    image: bytes  # a PNG file
    question: str  # or the model's caption
    answer: str  # the right one, or a caption that was given
    prediction: str
    right: bool | None  # None where nobody knows
    answer_type: str
    explanations: Mapping[str, Explanation]  # by method
    window: tuple[float, float, float, float] = (
        0.0,
        0.0,
        1.0,
        1.0,
    )  # left, top, width, height of the patches in the image


@dataclass(frozen=True)
class Section:
    """A table with columns of its own, such as published figures beside ours."""

    title: str
    note: str
    columns: tuple[Column, ...]
    table: Table


@dataclass(frozen=True)
class Report:
    """Report of explainers.

    The first table is of all samples; `facts` stand at the foot: protocol, checkpoint, data, seed, date, versions.
    """

    title: str
    facts: Mapping[str, str]
    columns: tuple[Column, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    gallery: tuple[Sample, ...] = field(default=(), repr=False)
    further: tuple[Section, ...] = ()
    kind: Literal["answers", "captions"] = "answers"  # what is explained
    shown: tuple[str, ...] = ()  # methods whose curves are drawn at first; none names all
