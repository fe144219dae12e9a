"""The table of docs/models.md, from the families of the tests. `python -m tests.xai.adapters.models_page` writes it."""

from pathlib import Path

import xai
from xai import EXPLAINERS, adapter_for, explain_recording, record
from xai.adapters import ADAPTERS
from xai.recording.recording import Recording

from ..conftest import FAMILIES, Family, build
from ..lrp.test_conservation import LOSES as TABLES_LOSE
from .stock import SAMPLED, STOCK, built
from .test_adapters import refused
from .test_derived import EAGER, LOSES, MADE, REFUSED, TILES, UNRULED
from .test_towers import COCA, PLAIN
from .test_windows import BY_HAND

PAGE = Path(xai.__file__).parents[1] / "docs" / "models.md"
START, END = "<!-- table -->\n", "<!-- end -->"
HEADER = ("family", "library", "class", "scores of", "adapter", "attention checked by", "LRP", "refused methods")


def table() -> list[str]:
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [of_a_table(name) for name in FAMILIES] + [of_none(name) for name in STOCK]
    return [f"| {' | '.join(row)} |" for row in rows]


def of_a_table(name: str) -> tuple[str, ...]:
    family = build(name)
    methods = [method for method in EXPLAINERS if refused(method, family)]
    return (name, *facts(family, recorded(family)), "table and model agree", lrp(name in TABLES_LOSE), cell(methods))


def of_none(name: str) -> tuple[str, ...]:
    family = built(name)
    recording = recorded(family)
    methods = [method for method in EXPLAINERS if method in REFUSED.get(name, ())]
    return (
        name,
        *facts(family, recording),
        attention(name, recording),
        lrp(name in LOSES, name in UNRULED),
        cell(methods),
    )


def recorded(family: Family) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def facts(family: Family, recording: Recording) -> tuple[str, str, str, str]:
    """Library, class, modalities, and the kind of adapter that a user gets."""
    kind = type(family.model)
    modalities = explain_recording(recording, "raw_attention", family.target).scores
    return kind.__module__.split(".")[0], kind.__name__, ", ".join(modalities), adapter(family)


def adapter(family: Family) -> str:
    names = (f"{cls.__module__.split('.')[0]}.{cls.__name__}" for cls in type(family.model).__mro__)
    for name in names:
        if name in ADAPTERS:
            try:
                ADAPTERS[name](family.model)
            except ValueError:  # a variant that the table does not know
                return "found"
            return f"table `{ADAPTERS[name].__name__}`"
    return "found"


def attention(name: str, recording: Recording) -> str:
    if name in {*MADE, *TILES, *BY_HAND, *COCA, *SAMPLED}:
        return "hand"
    if name in PLAIN:
        return "plain code"
    if name not in EAGER:
        return "outputs"
    length = recording.mask.shape[1]
    whole = all(e.is_self and e.queries.stop == e.keys.stop == length for e in recording.events)
    return "formulas" if whole else "attentions"


def lrp(loses: bool, refused: bool = False) -> str:
    if refused:
        return "refused"
    return "loses by TransAtt" if loses else "yes"


def cell(methods: list[str]) -> str:
    return ", ".join(f"`{method}`" for method in methods) or "none"


def on_the_page() -> list[str]:
    return PAGE.read_text().split(START)[1].split(END)[0].strip().splitlines()


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(START)
    PAGE.write_text(before + START + "\n".join(table()) + "\n" + END + rest.split(END)[1])
