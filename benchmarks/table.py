"""The table that is read."""

from benchmarks.entry import Entry

HEADER = f"{'benchmark':14} {'what':82} {'ours':>10} {'other':>10} {'ratio [least, most]':>22} {'target':>8} {'verdict':8} notes"


def line(benchmark: str, entry: Entry, quick: bool) -> str:
    """One entry; what was not measured is a dash."""
    ratio = "-" if entry.ratio is None or entry.unit != "s" else f"{entry.ratio:.2f} x"
    if entry.ratio is not None and entry.other is None:
        ratio = "-" if entry.unit else f"{100 * entry.ratio:.1f} %"
    if entry.spread:
        ratio += f" [{entry.spread[0]:.2f}, {entry.spread[1]:.2f}]"
    target = str(entry.target) if entry.target else "-"
    columns = [
        f"{benchmark:14} {entry.what:82} {_value(entry.ours, entry.unit):>10} {_value(entry.other, entry.unit):>10}"
    ]
    columns.append(f"{ratio:>22} {target:>8} {entry.verdict(quick):8} {_notes(entry)}")
    return " ".join(columns).rstrip()


def _value(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.3g} {unit}"


def _notes(entry: Entry) -> str:
    further = [f"{name} {value:.3g}" for name, value in entry.extra.items() if value is not None]
    return "; ".join([note for note in (entry.note, *further) if note])
