"""What `mkdocs build` makes by itself: a card for each method, tables of figures, notebooks in the navigation, the changes."""

import csv
import inspect
import posixpath
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from xai.explainers.registry import METHODS, Method

DOCS = Path(__file__).parent
FIGURES = {  # the measurements that cards show: what they are, and where they are told
    "seed-2027": ("1000 questions of scenes of seed 2027, in percent", "all-columns-at-once-scenes-of-seed-2027"),
    "seed-77": ("1000 questions of scenes of seed 77", "removing-tokens"),
    "location-77": ("Where relevance falls on scenes of seed 77, in percent", "where-relevance-falls"),
    "budget": ("Against the budget of runs: 25 questions of mapper B, seed 2027", "quality-against-budget"),
}
KINDS = (
    "Attention and gradients, one pass",
    "Relevance by rules, one pass",
    "Many runs of the model",
    "For some models alone",
)
RULES = {
    "transatt": "TransAtt",
    "attn_lrp": "AttnLRP",
    "cp_lrp": "CP-LRP",
}  # whose rules a method of that name propagates by
Row = Mapping[str, str]


@cache
def figures(name: str) -> list[Row]:
    """Returns the rows of a file of figures, as text, so that no digit is lost."""
    with (DOCS / "figures" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def measures(row: Row) -> list[str]:
    """Returns what was measured: the columns of figures, without those of intervals and of what the row is of."""
    return [name for name in row if name not in ("mapper", "method", "runs") and not name.endswith((" low", " high"))]


def cell(row: Row, measure: str) -> str:
    if not row[measure]:
        return "–"
    low, high = row.get(f"{measure} low"), row.get(f"{measure} high")
    return f"{row[measure]} [{low}, {high}]" if low else row[measure]


def table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def figures_table(name: str, mapper: str | None, page: str) -> str:
    """Returns a table of a file of figures for a page; methods lead to their cards."""
    rows = [row for row in figures(name) if mapper in (None, row.get("mapper"))]
    keys = [key for key in ("method", "runs") if key in rows[0]]
    shown = measures(rows[0])
    return table(
        [*keys, *shown],
        [
            [named(row["method"], page), *(row[key] for key in keys[1:]), *(cell(row, measure) for measure in shown)]
            for row in rows
        ],
    )


def named(method: str, page: str) -> str:
    to = posixpath.relpath(f"methods/{method}.md", posixpath.dirname(page))
    return f"[{method}]({to})" if method in METHODS else method


def kind(method: Method) -> str:
    """Returns the part of the navigation that a method's card stands in."""
    return KINDS[3 if method.models else 2 if method.passes == "many" else 1 if method.rules else 0]


def cost(method: Method) -> str:
    """Returns how often a method runs the model."""
    if method.passes == "one":
        return "1 recorded pass"
    if method.counted is None:
        return "1 recorded pass, a run for each token"
    return f"1 recorded pass, {options(method)[method.counted]} {'runs' if method.removes else 'passes'}"


def more_of_cost(method: Method) -> str:
    """Returns what is to be said of the runs beside the recorded pass."""
    said = "forward alone, on inputs without some tokens or with less attention to them" if method.removes else ""
    return "; ".join(filter(None, [method.counted and f"option `{method.counted}`", said]))


def options(method: Method) -> dict[str, Any]:
    parameters = list(inspect.signature(method.function).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def rules(method: Method) -> str:
    found = [name for known, name in RULES.items() if METHODS[known].rules is method.rules]
    return found[0] if found else "none"


def yes(value: bool) -> str:
    return "yes" if value else "no"


def card(method: Method) -> str:
    """Returns a method's page."""
    of_function = f"{method.function.__module__}.{method.function.__name__}"
    shown = ", ".join(f"`{name}={default!r}`" for name, default in options(method).items()) or "none"
    facts = {
        "reads": str(method.needs()),
        "cost": "; ".join(filter(None, [cost(method), more_of_cost(method)])),
        "depends on the target": yes(not method.class_agnostic),
        "signed: tokens can speak against the target": yes(method.signed),
        "rules for relevance": rules(method),
        "says how much pairs of tokens matter": yes(method.pairs is not None),
        "for": method.models or "all models",
        "options": shown,
        "source": re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", method.source),
    }
    return "\n\n".join(
        [
            f"# `{method.name}`",
            table(["", ""], [[name, value] for name, value in facts.items() if value]),
            f'```\nrelevance = explain(model, inputs, "{method.name}", target)\n```',
            "## What it computes",
            f"::: {of_function}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false",
            "## Measured",
            *(
                measured(method.name)
                or ["No figures of Shapes yet. [What was measured](../which-explainer-is-right.md)."]
            ),
        ]
    )


def measured(method: str) -> list[str]:
    """Returns what the files of figures say of a method: a table of each that has it."""
    parts = []
    for name, (what, anchor) in FIGURES.items():
        rows = figures(name)
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        head, key = ["measure"], "runs" if "runs" in own[0] else "mapper"
        for row in own:
            head += [f"{row[key]} runs" if key == "runs" else f"mapper {row[key]}"] if row[key] else ["no runs"]
            head += ["place"] * (key == "mapper")
        body = []
        for measure in measures(own[0]):
            line = [measure]
            for row in own:
                line.append(cell(row, measure))
                if key == "mapper":
                    line.append(place(row, measure, [r for r in rows if r["mapper"] == row["mapper"]]))
            body.append(line)
        parts += [f"{what}. [What the columns mean](../which-explainer-is-right.md#{anchor}).", table(head, body)]
        parts += verdict(own, rows)
    return parts


def place(row: Row, measure: str, rows: list[Row]) -> str:
    """Returns a row's place by a measure of which more is better: those with intervals."""
    if not row.get(f"{measure} low"):
        return ""
    values = sorted((float(r[measure]) for r in rows if r["method"] in METHODS and r[measure]), reverse=True)
    return f"{values.index(float(row[measure])) + 1} of {len(values)}"


def verdict(own: list[Row], rows: list[Row]) -> list[str]:
    """Returns a sentence on where a method has no lead over random maps: its interval is not above theirs."""
    lost = []
    for row in own:
        chance = [r for r in rows if r["method"] == "random" and r.get("mapper") == row.get("mapper")]
        if not chance or row["method"] == "random":
            continue
        lost += [
            f"{measure} (mapper {row['mapper']})"
            for measure in measures(row)
            if row.get(f"{measure} low") and float(row[f"{measure} low"]) <= float(chance[0][f"{measure} high"])
        ]
    return [f"Not above random maps, by intervals: {', '.join(lost)}."] if lost else []


def overview() -> str:
    """Returns the page of all methods."""
    by_method = {row["method"]: row for row in figures("seed-2027") if row["mapper"] == "B"}
    parts = ["# Methods", METHODS_PAGE]
    head = ["method", "cost", "rules", "depends on the target", "signed", "SRG image", "SRG text"]
    for name in KINDS:
        body = []
        for method in (m for m in METHODS.values() if kind(m) == name):
            row = by_method.get(method.name)
            srg = [cell(row, measure) if row else "" for measure in head[-2:]]
            short = cost(method).replace(" ", "\N{NO-BREAK SPACE}")
            facts = [short, rules(method), yes(not method.class_agnostic), yes(method.signed)]
            body.append([f"[{method.name}]({method.name}.md)", *facts, *srg])
        shown = len(head) if any(row[-1] for row in body) else -2
        parts += [f"## {name}", table(head[:shown], [row[:shown] for row in body])]
    return "\n\n".join(parts)


METHODS_PAGE = """A card for each of the methods of `xai.METHODS`. [Which one to take](../how-to/choose-a-method.md);
[their formulas and options in one table](../explainers.md). [SRG](../glossary.md#srg) is of mapper B on 1000 questions of
seed 2027, in percent: higher is better."""


def on_config(config: MkDocsConfig) -> None:
    """Adds cards and notebooks to the navigation."""
    sections = {name: part for entry in config.nav or [] for name, part in entry.items()}
    for name in KINDS:
        cards = [{m.name: f"methods/{m.name}.md"} for m in METHODS.values() if kind(m) == name]
        sections["Methods"].append({name: cards})
    notebooks = [f"notebooks/{path.name}" for path in sorted((DOCS / "notebooks").glob("*.ipynb"))]
    if notebooks:
        sections["Tutorials"].append({"Notebooks": notebooks})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages that are made."""
    pages = {f"methods/{method.name}.md": card(method) for method in METHODS.values()}
    pages |= {
        "methods/index.md": overview(),
        "changes.md": (DOCS.parent / "CHANGELOG.md").read_text().replace("](docs/", "]("),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Puts tables of figures where a page asks for them, <!-- figures: FILE [MAPPER] -->, and keeps intervals in one line."""
    whole = re.sub(
        r"<!-- figures: ([\w-]+)(?: (\w+))? -->",
        lambda found: figures_table(found[1], found[2], page.file.src_uri),
        markdown,
    )
    return re.sub(r"([\d.]+) (\[[-−+\d.]+,) ([-−+\d.]+\])", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}\\3", whole)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Leads the links of notebooks to pages: those of other sources are led there by MkDocs."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return re.sub(r'(<a href="(?!\w+:)[^"#]+)\.(?:md|ipynb)(?=["#])', r"\1.html", html)
