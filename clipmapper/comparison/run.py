"""The comparison of `evaluate.py --explainers`: measured in batches that stay on disk, then summed up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmapper.comparison import curves, page
from clipmapper.comparison.cost import costs
from clipmapper.comparison.explained import RANDOM, Asked, ask, explain_all
from clipmapper.comparison.measure import Measured, joined, measure, truth_of
from clipmapper.comparison.parts import Parts
from clipmapper.comparison.summary import bands, report, summary, values, with_inverted
from clipmapper.data.vqa import Questions
from clipmapper.features import weights_fingerprint
from clipmapper.model import CLIPMapper
from xai.files import replacing
from xai.report.build import write_report
from xai.report.data import Report

BATCH = 32  # questions explained at once
COSTED = 8  # questions on which a method's cost is measured


@dataclass(frozen=True)
class Plan:
    """Which methods explain which questions, and how they are judged. `root` holds the data, with its truth if it has one."""

    questions: Questions
    rows: Sequence[int]
    methods: tuple[str, ...]
    protocol: str
    root: Path | None

    def batches(self) -> list[Sequence[int]]:
        return [self.rows[start : start + BATCH] for start in range(0, len(self.rows), BATCH)]

    def ask(self, model: CLIPMapper, rows: Sequence[int]) -> Asked:
        return ask(model, self.questions, rows)


@dataclass(frozen=True)
class Compared:
    """What metrics.json holds, and what the HTML report shows."""

    metrics: dict[str, Any]
    report: Report


def compare(model: CLIPMapper, plan: Plan, output: Path) -> Compared:
    """Explains and perturbs the questions; goes on where an interrupted run of the same plan stopped.

    Batches are kept in `output`/explainers. Writes samples.parquet, curves.png and report.html, and prints the table.
    Raises ValueError if the folder holds another comparison.
    """
    model.eval()
    parts = Parts(output / "explainers", _described(model, plan))
    spent = _costs(model, plan, parts.folder / "cost.json")
    done = _measured(model, plan, parts)
    measured = with_inverted(done, plan.protocol)
    result = summary(measured, plan.protocol, spent)
    curves.save(curves.draw(bands(measured), measured.methods, plan.protocol), output / "curves.png")
    paths = [parts.path(i) for i, _ in enumerate(plan.batches())]
    _write_samples(paths, done, plan.protocol, output / "samples.parquet")
    print(report(result))
    facts = {
        "model": f"mapper {model.config.mapper} over {model.config.clip}",
        "data": str(plan.root or "a hub data set"),
    }
    gallery = page.gallery(paths, plan.questions, model.clip)
    shown = page.report(result, measured, gallery, plan.protocol, facts)
    write_report(shown, output / "report.html")
    return Compared(result, shown)


def _described(model: CLIPMapper, plan: Plan) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    return {
        "model": weights_fingerprint(model),
        "questions": plan.questions.records.select_columns(["question_id"])[list(plan.rows)]["question_id"],
        "methods": [*plan.methods, RANDOM],
        "protocol": plan.protocol,
        "batch": BATCH,
    }


def _measured(model: CLIPMapper, plan: Plan, parts: Parts) -> Measured:
    truth, batches = truth_of(plan.root), plan.batches()
    todo = [i for i, _ in enumerate(batches) if not parts.path(i).is_file()]
    for i in tqdm(todo, desc="explainers", unit="batch", initial=len(batches) - len(todo), total=len(batches)):
        explained = explain_all(model, plan.ask(model, batches[i]), plan.methods)
        parts.write(i, measure(model, explained, plan.protocol, truth), explained)
    return joined([parts.read(i) for i, _ in enumerate(batches)])


def _costs(model: CLIPMapper, plan: Plan, path: Path) -> dict[str, Any]:
    """Measured once; a run that goes on takes them from `path`."""
    if not path.is_file():
        found = costs(model, plan.ask(model, plan.rows[:COSTED]), plan.methods)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found))
    return json.loads(path.read_text())


def _write_samples(parts: Sequence[Path], measured: Measured, protocol: str, path: Path) -> None:
    """All parts as one file, a row for each question and method, with the areas beside the curves."""
    whole = pa.concat_tables([pq.read_table(part) for part in parts])
    question = {key: i for i, key in enumerate(measured.records["question_id"])}
    columns = [question[key] for key in whole["question_id"].to_pylist()]
    rows = [measured.methods.index(name) for name in whole["method"].to_pylist()]
    for key, by_method in values(measured, protocol).items():
        if key not in measured.figures:
            whole = whole.append_column(f"area/{key}", pa.array(by_method[rows, columns]))
    with replacing(path) as temporary:
        pq.write_table(whole, temporary)
