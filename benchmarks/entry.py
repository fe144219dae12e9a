"""One line of the table: what was compared, by how much, and what was aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Point = tuple[float, float, float]  # size, ours, other
Times = Mapping[str, Sequence[float]]  # seconds of each side, round by round


@dataclass(frozen=True)
class Target:
    relation: Literal["<=", ">="]
    value: float

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"

    def met(self, ratio: float) -> bool:
        return ratio <= self.value if self.relation == "<=" else ratio >= self.value


@dataclass(frozen=True)
class Entry:
    """Figures of `ours` and `other` in `unit`. A cost's ratio is ours / other, a gain's other / ours.

    The ratio is the median over pairs of runs, `spread` their least and largest. `axis` and `points` are there if a size
    was varied; the other figures are then those of the largest. `extra`: further figures, such as memory and agreement.
    """

    what: str
    ours: float | None = None
    other: float | None = None
    unit: str = "s"
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: Target | None = None
    note: str = ""
    axis: str = ""
    points: tuple[Point, ...] = ()
    extra: Mapping[str, float | None] = field(default_factory=dict)

    def verdict(self, quick: bool) -> str:
        """Nothing is claimed of a quick run."""
        if self.ratio is None or self.target is None:
            return "-"
        return "smoke" if quick else "met" if self.target.met(self.ratio) else "missed"

    def record(self, quick: bool) -> dict[str, Any]:
        """For JSON."""
        target = str(self.target) if self.target else None
        return {**asdict(self), "target": target, "verdict": self.verdict(quick)}


def cost(what: str, times: Times, ours: str, other: str, most: float | None = None, **fields: Any) -> Entry:
    """How many times the seconds of `other` it takes; the target is at most `most`."""
    ratios = [a / b for a, b in zip(times[ours], times[other], strict=True)]
    return _entry(what, times, ours, other, ratios, None if most is None else Target("<=", most), fields)


def gain(what: str, times: Times, ours: str, other: str, least: float | None = None, **fields: Any) -> Entry:
    """How many times faster than `other` it is; the target is at least `least`."""
    ratios = [b / a for a, b in zip(times[ours], times[other], strict=True)]
    return _entry(what, times, ours, other, ratios, None if least is None else Target(">=", least), fields)


def _entry(
    what: str, times: Times, ours: str, other: str, ratios: list[float], target: Target | None, fields: dict[str, Any]
) -> Entry:
    own, theirs = median(times[ours]), median(times[other])
    return Entry(what, own, theirs, "s", median(ratios), (min(ratios), max(ratios)), target, **fields)
