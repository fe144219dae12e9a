"""The comparison of `evaluate.py --explainers`: measured in batches that stay on disk, then summed up."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmapper.comparison import curves, page
from clipmapper.comparison.cost import costs
from clipmapper.comparison.explained import RANDOM, PreparedQuestions, ask, explain_all
from clipmapper.comparison.measure import Measured, joined, measure, truth_of
from clipmapper.comparison.parts import Parts, from_table, keep, known, read
from clipmapper.comparison.sanity import sanity
from clipmapper.comparison.summary import bands, report, summary, values, with_inverted
from clipmapper.data.images import BadImage
from clipmapper.data.vqa import Questions
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.processes import World, launched, own_device, wait
from xai.files import replacing
from xai.report.build import write_report
from xai.report.data import Report

BATCH = 32  # questions explained at once
FEW = 8  # questions on which a method's cost and sanity are measured
APART = {"cost": costs, "sanity": sanity}


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

    def ask(self, model: CLIPMapper, rows: Sequence[int]) -> PreparedQuestions:
        return ask(model, self.questions, rows)


@dataclass(frozen=True)
class Compared:
    """What metrics.json holds, and what the HTML report shows."""

    metrics: dict[str, Any]
    report: Report


def compare(model: CLIPMapper, plan: Plan, output: Path, world: World | None = None) -> Compared:
    """Explains and perturbs the questions; goes on where an interrupted run of the same plan stopped.

    Batches are kept in `output`/explainers. Writes samples.parquet, curves.png and report.html, and prints the table.
    The processes of `world`, by default those started together, share the batches; the first one alone writes what they
    come to, all return it. Raises ValueError if the folder holds another comparison or no image can be read.
    """
    world = world or launched()
    model.eval()
    parts = Parts(output / "explainers", _described(model, plan))
    if world.size > 1:
        model.to(own_device(next(model.parameters()).device))
    if world.first:
        _measure_apart(model, plan, parts.folder)
    paths = _measured(model, plan, parts, world)
    apart = _apart(parts.folder)
    done = joined([from_table(read(path), parts.methods) for path in paths])
    measured = with_inverted(done, plan.protocol)
    result = summary(measured, plan.protocol, apart["cost"], apart["sanity"])
    shown = _shown(model, plan, measured, result, paths)
    if world.first:
        curves.save(curves.draw(bands(measured), measured.methods, plan.protocol), output / "curves.png")
        _write_samples(paths, done, plan.protocol, output / "samples.parquet")
        print(report(result))
        write_report(shown, output / "report.html")
    return Compared(result, shown)


def _shown(
    model: CLIPMapper, plan: Plan, measured: Measured, result: Mapping[str, Any], paths: Sequence[Path]
) -> Report:
    facts = {
        "model": f"mapper {model.config.mapper} over {model.config.clip}",
        "data": str(plan.root or "a hub data set"),
    }
    gallery = page.gallery(paths, plan.questions, model.clip, truth_of(plan.root))
    return page.report(result, measured, gallery, plan.protocol, facts)


def _described(model: CLIPMapper, plan: Plan) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    return {
        "model": weights_fingerprint(model),
        "questions": plan.questions.records.select_columns(["question_id"])[list(plan.rows)]["question_id"],
        "methods": [*plan.methods, RANDOM],
        "protocol": plan.protocol,
        "batch": BATCH,
    }


def _measured(model: CLIPMapper, plan: Plan, parts: Parts, world: World) -> list[Path]:
    """Measures this process's share and waits for the others'; the parts that hold questions."""
    truth, batches = truth_of(plan.root), plan.batches()
    share = world.share(range(len(batches)))
    todo = [i for i in share if not parts.done(i)]
    for i in tqdm(todo, desc="explainers", unit="batch", initial=len(share) - len(todo), total=len(share)):
        try:
            explained = explain_all(model, plan.ask(model, batches[i]), plan.methods)
        except BadImage:
            parts.leave_out(i)
            continue
        parts.write(i, measure(model, explained, plan.protocol, truth), explained)
    arrived = set(share)
    wait(lambda: _arrived(parts, len(batches), arrived), len(batches), "batches")
    paths = [parts.path(i) for i, _ in enumerate(batches)]
    return [path for path in paths if pq.read_metadata(path).num_columns] or _no_images(plan)


def _arrived(parts: Parts, count: int, arrived: set[int]) -> int:
    """How many batches are there; those in `arrived` are not looked at again."""
    arrived |= {i for i in range(count) if i not in arrived and parts.done(i)}
    return len(arrived)


def _measure_apart(model: CLIPMapper, plan: Plan, folder: Path) -> None:
    """Once, on a few questions; a run that goes on takes it from `folder`."""
    for name, measured in APART.items():
        path = folder / f"{name}.json"
        if known(path) is None:
            keep(path, measured(model, _few(model, plan), plan.methods))


def _apart(folder: Path) -> dict[str, Any]:
    """What the first process has measured apart; the others may have to wait for it."""
    paths = {name: folder / f"{name}.json" for name in APART}
    wait(lambda: sum(known(path) is not None for path in paths.values()), len(paths), "figures measured apart")
    return {name: known(path) for name, path in paths.items()}


def _few(model: CLIPMapper, plan: Plan) -> PreparedQuestions:
    for start in range(0, len(plan.rows), FEW):
        with suppress(BadImage):
            return plan.ask(model, plan.rows[start : start + FEW])
    return _no_images(plan)


def _no_images(plan: Plan) -> NoReturn:
    raise ValueError(f"no image of the {len(plan.rows)} questions can be read; are they still below {plan.root}?")


def _write_samples(parts: Sequence[Path], measured: Measured, protocol: str, path: Path) -> None:
    """All parts as one file, a row for each question and method, with the areas beside the curves."""
    whole = pa.concat_tables([read(part) for part in parts])
    question = {key: i for i, key in enumerate(measured.records["question_id"])}
    columns = [question[key] for key in whole["question_id"].to_pylist()]
    rows = [measured.methods.index(name) for name in whole["method"].to_pylist()]
    for key, by_method in values(measured, protocol).items():
        if key not in measured.figures:
            whole = whole.append_column(f"area/{key}", pa.array(by_method[rows, columns]))
    with replacing(path) as temporary:
        pq.write_table(whole, temporary)
