"""A benchmark as a whole: its files agree, an interrupted one goes on, two processes do as one does, memory runs out."""

import json
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipmapper.benchmark import run as run_module
from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.run import method_names, plan, run
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask, choose
from clipmapper.processes import World
from xai.recording.recording import Recording, Score

from ...commands import call, start
from .conftest import CONFIG


def table(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without seconds and memory, which no two runs share."""
    return {**metrics, "methods": {name: {**entry, "cost": {}} for name, entry in metrics["methods"].items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return tmp_path_factory.mktemp("whole")


def test_the_files_agree(task: AnswersTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(task, CONFIG, tmp_path, World())
    metrics = outcome.metrics
    json.dumps(metrics, allow_nan=False)
    assert metrics["samples"] == 5 and set(metrics["methods"]) > {"genatt", "raw_attention", "random"}
    frame = pq.read_table(tmp_path / "values.parquet").to_pandas()
    one = frame[(frame["method"] == "genatt") & (frame["metric"] == "image/mass")]["value"]
    assert metrics["methods"]["genatt"]["metrics"]["image/mass"]["mean"] == pytest.approx(np.nanmean(one), abs=1e-6)
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 5
    content = re.search(r'id="data">(.*?)</script>', (tmp_path / "report.html").read_text())
    assert content
    shown = json.loads(content[1])
    rows = {row["method"]: row["figures"] for row in shown["tables"][0]["rows"]}
    for key, value in metrics["methods"]["genatt"]["metrics"].items():
        assert rows["genatt"][key]["mean"] == value["mean"]
    for group, value in metrics["methods"]["genatt"]["sanity"].items():
        assert rows["genatt"][f"sanity/{group}"] == value
    assert len(shown["gallery"]) == 2 and set(shown["gallery"][0]["explanations"]) == {
        "genatt",
        "raw_attention",
        "ground truth",
    }
    assert shown["shown"][-1] == "random" and metrics["methods"]["genatt"]["cost"]["forward"] == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("genatt", "raw_attention*", "mapper~", "Spearman"))
    assert Image.open(tmp_path / "curves.png").width > 400


def test_an_interrupted_benchmark_goes_on(task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table(run(task, CONFIG, tmp_path, World()).metrics)
    folder = tmp_path / "explainers"
    (folder / "values-00001.parquet").write_bytes(b"cut short")
    measured = []
    monkeypatch.setattr(run_module, "measure", lambda t, rows, *more: measured.append(rows) or measure(t, rows, *more))
    trims: list[int] = []
    monkeypatch.setattr(run_module, "give_back_memory", lambda: trims.append(len(measured)))
    assert table(run(task, CONFIG, tmp_path, World()).metrics) == before
    assert measured == [range(2, 4)], "the others are not measured again"
    assert trims == [1], "after each part"
    with pytest.raises(ValueError, match=r"other benchmark\.protocol"):
        run(task, replace(CONFIG, protocol="genatt"), tmp_path, World())


def test_two_processes_do_as_one_does(task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmapper.processes.PAUSE", 0.05)
    one = table(run(task, CONFIG, tmp_path / "one", World()).metrics)
    outcomes: dict[int, Any] = {}
    second = threading.Thread(target=lambda: outcomes.update({1: run(task, CONFIG, tmp_path / "two", World(1, 2))}))
    second.start()  # waits for the first one's batches
    second.join(timeout=0.01)
    while not (tmp_path / "two" / "explainers" / "values-00001.parquet").is_file() and second.is_alive():
        time.sleep(0.05)  # passes of one module do not mix
    outcomes[0] = run(task, CONFIG, tmp_path / "two", World(0, 2))
    second.join()
    assert table(outcomes[0].metrics) == table(outcomes[1].metrics) == one


def test_where_memory_runs_out_the_batch_is_halved(
    task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = measure(task, range(4), ("genatt",), CONFIG)
    sizes = []

    def small(t: AnswersTask, rows: range, *more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no")
        return measure(t, rows, *more)

    monkeypatch.setattr(run_module, "measure", small)
    halves = run_module.measure_in_memory(task, range(4), ("genatt",), CONFIG, (), ())
    assert sizes == [4, 2, 1, 1, 2, 1, 1] and halves.ids == whole.ids
    for key, values in whole.values.items():
        np.testing.assert_allclose(halves.values[key], values, atol=1e-5)
    assert "4 questions do not fit into memory: going on with 2 at a time" in capsys.readouterr().out
    monkeypatch.setattr(run_module, "measure", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(ValueError, match="one question does not fit into memory with 1 methods"):
        run_module.measure_in_memory(task, range(1), ("genatt",), CONFIG, (), ())


def upside_down(recording: Recording, target: Score) -> Tensor:
    """An explainer of one's own."""
    return -torch.arange(recording.mask.shape[1]).expand(recording.mask.shape).float()


def failing(recording: Recording, target: Score) -> Tensor:
    raise ValueError("not today")


def test_explainers_of_ones_own_and_one_that_fails(
    task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    config = replace(CONFIG, methods="mine:upside_down,mine:failing,rollout", cost_samples=0)
    metrics = run(task, config, tmp_path, World()).metrics
    ours = metrics["methods"]["mine:upside_down"]
    assert ours["metrics"]["image/no_positive"]["mean"] == 1 and ours["error"] is None
    failed = metrics["methods"]["mine:failing"]
    assert failed["error"] == "ValueError: not today" and failed["metrics"]["image/probability/srg"]["mean"] is None
    assert metrics["methods"]["rollout"]["metrics"]["image/probability/srg"]["samples"] == 5
    assert "method mine:failing failed" in caplog.text and "Traceback" in caplog.text
    assert caplog.text.count("method mine:failing failed") == 1, "once"


def test_methods_of_many_passes_explain_fewer_samples(task: AnswersTask, tmp_path: Path) -> None:
    config = replace(CONFIG, methods="genatt,smoothgrad", many_pass_samples=3, cost_samples=0, random_seeds=1)
    metrics = run(task, config, tmp_path, World()).metrics["methods"]
    assert (metrics["smoothgrad"]["samples"], metrics["genatt"]["samples"]) == (3, 5)
    assert [len(batch) for batch in plan(5, 2, 3)] == [2, 1, 2]


def test_an_error_that_is_no_methods_own_stops_the_run_and_keeps_what_was_measured(
    task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(t: AnswersTask, rows: range, *more: Any) -> Any:
        if rows.start:
            raise KeyError("a bug")
        return measure(t, rows, *more)

    monkeypatch.setattr(run_module, "measure", broken)
    with pytest.raises(KeyError):
        run(task, CONFIG, tmp_path, World())
    assert (tmp_path / "explainers" / "values-00000.parquet").is_file()


def test_names_of_methods() -> None:
    assert method_names(BenchmarkConfig(methods="wra, genatt,wra,random")) == ("wra", "genatt")
    everything = method_names(BenchmarkConfig(methods="all"))
    assert {"wra", "attn_lrp", "smoothgrad"} <= set(everything)
    assert not {"random", "pixel_lrp", "shapley", "maskclip"} & set(everything)
    removal = method_names(BenchmarkConfig(methods="removal"))
    assert {"shapley", "occlusion", "consensus_game"} <= set(removal) and not set(removal) & set(everything)
    assert method_names(BenchmarkConfig(methods="papers,wra"))[-1] == "wra"
    with pytest.raises(ValueError, match="unknown method 'genat'; did you mean 'genatt'"):
        method_names(BenchmarkConfig(methods="genat"))
    with pytest.raises(ValueError, match="names no method"):
        method_names(BenchmarkConfig(methods="random"))
    with pytest.raises(ValueError, match="cannot be imported"):
        method_names(BenchmarkConfig(methods="nowhere:function"))


def test_questions_of_different_images_come_first() -> None:
    images = np.repeat(np.arange(10), 3)
    rows = choose(images, 10, seed=3)
    assert len({images[row] for row in rows}) == 10 and rows == sorted(rows) == choose(images, 10, seed=3)
    assert len(choose(images, None, 0)) == 30 and len(set(choose(images, 12, 0))) == 12


@pytest.mark.slow
def test_a_killed_process_goes_on(shapes_root: Path, tmp_path: Path) -> None:
    """And prints the same table as one that was left alone."""
    options = [
        "--model=shapes-b-vqa",
        f"--data.root={shapes_root}",
        "--data.workers=0",
        "--data.cache=null",
        "--accelerator=cpu",
    ]
    options += [
        "--explainers=genatt,raw_attention",
        "--samples=9",
        "--benchmark.batch_size=3",
        "--benchmark.cost_samples=0",
    ]
    options += ["--benchmark.resamples=200"]
    parts = tmp_path / "killed" / "explainers"
    alone = start(tmp_path, "evaluate.py", *options, "--output=alone")
    start(tmp_path, "evaluate.py", *options, "--output=killed").kill_when(parts, "checksums-*.json")
    whole = [parts / f"values-{path.stem[-5:]}.parquet" for path in parts.glob("checksums-*.json")]
    written = {path: path.stat().st_mtime_ns for path in whole}
    assert len(written) < 3 and not (tmp_path / "killed" / "report.html").exists(), "killed too late to tell anything"
    call(tmp_path, "evaluate.py", *options, "--output=killed")
    assert alone.wait() == 0, alone.printed
    tables = [json.loads((tmp_path / name / "metrics.json").read_text())["explainers"] for name in ("killed", "alone")]
    assert tables[0] == tables[1]
    assert {path: path.stat().st_mtime_ns for path in written} == written
