"""`evaluate.py --explainers` as a whole: its files agree, a killed process goes on, two processes do as one does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmapper.cli import parse_evaluation
from clipmapper.comparison import run as run_module
from clipmapper.comparison import sanity as sanity_module
from clipmapper.evaluation.run import run

TOP = Path(__file__).resolve().parents[3]
METHODS = ("genatt", "raw_attention")
ALONE = {"RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}


def options(root: Path, output: Path, samples: int) -> list[str]:
    return [
        "--checkpoint=shapes-b-vqa", f"--data.root={root}", "--data.workers=0", f"--data.cache={root / 'features'}",
        "--trainer.accelerator=cpu", f"--explainers={','.join(METHODS)}", f"--samples={samples}", f"--output={output}",
    ]  # fmt: skip


def report_of(folder: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', (folder / "report.html").read_text())
    assert found
    return json.loads(found[1])


def test_the_files_agree(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "BATCH", 2)
    monkeypatch.setattr(run_module, "FEW", 1)
    monkeypatch.setattr(sanity_module, "DRAWS", 1)
    run(parse_evaluation(options(shapes_root, tmp_path, 3), TOP / "configs"))
    metrics = json.loads((tmp_path / "metrics.json").read_text())["explainers"]
    assert metrics["questions"] == 3 and set(metrics["methods"]) > {*METHODS, "random"}
    samples = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(samples) == 3 * (len(METHODS) + 1)
    shown = report_of(tmp_path)
    rows = {row["method"]: row["figures"] for row in shown["tables"][0]["rows"]}
    for name in METHODS:
        for key, figure in metrics["methods"][name]["figures"].items():
            column = key if f"figure/{key}" not in samples[0] else f"figure/{key}"
            given = [entry[f"area/{key}" if column == key else column] for entry in samples if entry["method"] == name]
            known = [value for value in given if np.isfinite(value)]
            assert figure["mean"] == pytest.approx(np.mean(known), abs=1e-6), key
            assert rows[name][key]["mean"] == figure["mean"]
        for group, figure in metrics["methods"][name]["sanity"].items():
            assert rows[name][f"sanity/{group}"] == figure
    spearman = metrics["published"]["areas"]["text/accuracy/negative"]["spearman"]
    printed = capsys.readouterr().out
    assert f"text/negative {'-' if spearman is None else f'{spearman:.2f}'}" in printed
    assert all(name in printed for name in (*METHODS, "mapper~", "report.html"))
    assert Image.open(tmp_path / "curves.png").width > 1000
    assert {sample["id"] for sample in shown["gallery"]} == {str(entry["question_id"]) for entry in samples}


def start(root: Path, output: Path, **environment: str) -> subprocess.Popen[bytes]:
    alone = {name: value for name, value in os.environ.items() if name not in ALONE}
    command = [sys.executable, str(TOP / "evaluate.py"), *options(root, output, 68)]
    return subprocess.Popen(command, env={**alone, "HF_DATASETS_CACHE": str(root / "cache"), **environment})


def table(output: Path) -> Any:
    """The figures of metrics.json without seconds and memory, which no two runs share."""
    found = json.loads((output / "metrics.json").read_text())["explainers"]
    for entry in found["methods"].values():
        del entry["cost"]
    return found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions for three batches."""
    from clipmapper.data.shapes.write import ShapesConfig, write_shapes

    root = tmp_path_factory.mktemp("scenes") / "shapes"
    write_shapes(root, ShapesConfig(train=2, val=32, test=0, questions=4))
    return root


@pytest.fixture(scope="module")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    assert start(scenes, output).wait() == 0
    return output


@pytest.mark.slow
def test_a_process_killed_in_the_middle_goes_on(scenes: Path, uninterrupted: Path, tmp_path: Path) -> None:
    process, parts = start(scenes, tmp_path), tmp_path / "explainers"
    while not list(parts.glob("part-*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert len(written) < 3 and not (tmp_path / "report.html").exists(), "killed too late to tell anything"
    assert start(scenes, tmp_path).wait() == 0
    assert table(tmp_path) == table(uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list(parts.glob("part-*.parquet"))) == 3


@pytest.mark.slow
def test_two_processes_do_as_one_does(scenes: Path, uninterrupted: Path, tmp_path: Path) -> None:
    both = [start(scenes, tmp_path, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert table(tmp_path) == table(uninterrupted)
    samples = [pq.read_table(folder / "samples.parquet").to_pylist() for folder in (uninterrupted, tmp_path)]
    assert str(samples[0]) == str(samples[1])
