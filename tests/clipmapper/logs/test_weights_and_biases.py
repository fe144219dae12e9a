"""Runs that are logged offline, read back: charts, best values, artifacts, and what is logged once a run goes on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from PIL import Image

from clipmapper.cli import Settings
from clipmapper.data.records import load_records
from clipmapper.logs import finish, log_curves, log_examples, log_files, log_table, make_loggers
from clipmapper.logs.memory import MEMORY, Memory, artifact_of
from clipmapper.logs.weights_and_biases import RunLogger
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.run import run, train

from ..training.test_run import EPOCH, interrupted, logged
from . import offline

MakeSettings = Callable[..., Settings]
EXPLAINED = (
    "--explain.every=1",
    "--explain.methods=[rollout]",
    "--explain.samples=2",
    "--explain.pictures=1",
    "--explain.protocol=wra",
)
LOGGERS = "--run.loggers=[wandb,csv]"


@pytest.fixture(autouse=True)
def offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def go(settings: Settings) -> None:
    train(settings, load_records(settings.data))


def started(folder: Path, **options: Any) -> RunLogger:
    (logger,) = make_loggers(["wandb"], folder, "toys", "first", {"seed": 7}, **options)
    assert isinstance(logger, RunLogger)
    return logger


def test_axes_and_best_values(tmp_path: Path) -> None:
    logger = started(tmp_path)
    for step, (accuracy, loss) in enumerate([(50.0, 3.0), (90.0, 1.0), (70.0, 2.0)]):
        logger.log_metrics({"val/accuracy": accuracy, "val/accuracy/yes/no": accuracy, "val/loss": loss}, step)
        logger.log_metrics({"train/loss": loss, "lr": loss, "explain/samples": loss, "val/skipped": step}, step)
    log_examples([logger], "val/examples", [Image.new("RGB", (2, 2))], ["a picture"], 2)
    finish([logger], {"best/val/accuracy": 90.0})
    (folder,) = offline.runs(tmp_path)
    defined = offline.metrics(folder)
    assert {metric.step_metric for name, metric in defined.items() if name != "trainer/global_step"} == {
        "trainer/global_step"
    }
    best = {name: [kind.name for kind, _ in metric.summary.ListFields()] for name, metric in defined.items()}
    assert best["val/accuracy"] == best["val/accuracy/yes/no"] == ["max"]
    assert best["train/loss"] == best["val/loss"] == ["min"]
    assert best["lr"] == best["explain/samples"] == best["val/skipped"] == ["last"] and best["val/examples"] == []
    beside = offline.summary(folder)
    assert beside["val/accuracy"] == {"max": 90} and beside["val/loss"] == {"min": 1}
    assert beside["lr"] == {"last": 2} and beside["best/val/accuracy"] == 90
    (row,) = (row for row in offline.history(folder) if "val/examples/captions" in row)
    assert row["val/examples/captions"] == ["a picture"]


def test_tables_have_numbers_and_charts_are_drawn_by_wandb(tmp_path: Path) -> None:
    logger = started(tmp_path)
    log_table([logger], "methods", ["method", "area"], [["a", 0.5], ["b", float("nan")]], 3)
    points = [("image", line, share, share * k) for k, line in enumerate("ab") for share in (0.0, 0.5)]
    log_curves([logger], "curves", points, 3)
    finish([logger])
    (folder,) = offline.runs(tmp_path)
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in folder.rglob("*.table.json")}
    assert tables["methods"]["data"] == [["a", 0.5], ["b", None]]
    assert tables["image"]["data"] == [[0, "a", 0], [0.5, "a", 0], [0, "b", 0], [0.5, "b", 0.5]]
    assert "wandb/lineseries/v0" in json.dumps(offline.config(folder)), "the chart that W&B draws from the table"


def test_an_artifact_keeps_its_file_without_a_copy(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"first")
    logger = started(tmp_path)
    log_files([logger], "model", "model", [checkpoint, tmp_path / "absent"], ["best"], {"step": 8})
    finish([logger])
    (folder,) = offline.runs(tmp_path)
    (artifact,) = offline.artifacts(folder)
    identity = Memory.read(tmp_path / MEMORY).id  # type: ignore[union-attr]
    assert (artifact.name, artifact.type) == (f"model-{identity}", "model") and "best" in artifact.aliases
    assert json.loads(artifact.metadata) == {"step": 8}
    (entry,) = artifact.manifest.contents
    assert entry.path == "best.ckpt" and Path(entry.local_path).samefile(checkpoint), "the same file on the disk"
    assert artifact_of(checkpoint) == f"toys/model-{identity}:best"
    replaced = checkpoint.with_name("new")
    replaced.write_bytes(b"second")
    replaced.replace(checkpoint)
    assert Path(entry.local_path).read_bytes() == b"first", "what is uploaded later is what was logged"
    assert artifact_of(checkpoint) is None, "no artifact holds the new file"


def test_without_links_a_copy_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "best.ckpt").write_bytes(b"first")
    logger = started(tmp_path)
    log_files([logger], "model", "model", [tmp_path / "best.ckpt"], ["best"], {})
    finish([logger])
    (artifact,) = offline.artifacts(*offline.runs(tmp_path))
    assert Path(artifact.manifest.contents[0].local_path).read_bytes() == b"first"


def test_an_online_run_uses_the_artifact_an_offline_one_names_it() -> None:
    used: list[str] = []
    for online in (True, False):
        config: dict[str, Any] = {}
        update = lambda values, allow_val_change, config=config: config.update(values)  # noqa: E731
        run = SimpleNamespace(config=SimpleNamespace(update=update), offline=not online, use_artifact=used.append)
        RunLogger(run).use("toys/model-1:best")
        assert config == {"model_artifact": "toys/model-1:best"}
    assert used == ["toys/model-1:best"]


def test_a_run_that_goes_on_is_the_same_and_logs_nothing_twice(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = (LOGGERS, "--run.examples=1")
    interrupted(settings, "run", monkeypatch, 5, *options)  # its last checkpoint is that of step 3
    go(settings("run", "--run.resume=last", *options))
    folders = offline.runs(tmp_path / "run")
    assert len(folders) == 2 and len({offline.run_record(folder).run_id for folder in folders}) == 1
    for name in ("train/loss", "lr", "val/accuracy"):
        assert dict(offline.values(folders, name)) == pytest.approx(logged(tmp_path / "run", name))
        steps = [step for step, _ in offline.values(folders, name)]
        assert steps == sorted({*steps}), name
    assert [step for step, _ in offline.values(folders, "train/loss")] == list(range(2 * EPOCH))
    with open(*(tmp_path / "run" / "csv").rglob("metrics.csv")) as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == list(range(2 * EPOCH))


def test_a_run_that_goes_on_with_wandb_only_now(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("run", "--trainer.max_epochs=1", "--optimizer.decay_from=100"))
    go(settings("run", "--trainer.max_epochs=2", "--optimizer.decay_from=100", "--run.resume=last", LOGGERS))
    assert [step for step, _ in offline.values(offline.runs(tmp_path / "run"), "train/loss")] == [*range(8, 16)]
    assert len(logged(tmp_path / "run", "train/loss")) == 16


def test_a_whole_run(settings: MakeSettings, tmp_path: Path) -> None:
    mine = wandb.init(mode="offline", dir=tmp_path, project="mine")  # the user's own, which must stay alone
    run(settings("run", LOGGERS, *EXPLAINED, "--run.floors=true", "--run.examples=1"))
    mine.finish()
    assert offline.history(*offline.runs(tmp_path)) == []
    (folder,) = offline.runs(tmp_path / "run")
    assert offline.config(folder)["optimizer"]["warmup_steps"] == 3
    assert offline.run_record(folder).job_type == "train"
    models = {(a.name.split("-")[0], *sorted(a.aliases)): a for a in offline.artifacts(folder) if a.type == "model"}
    files = {key: sorted(entry.path for entry in a.manifest.contents) for key, a in models.items()}
    assert files == {
        ("model", "last", "latest"): ["last.ckpt"],
        ("model", "best", "latest"): ["best.ckpt"],
        ("mapper", "best", "latest"): ["README.md", "config.json", "model.safetensors"],
    }
    best, beside = json.loads(models["model", "best", "latest"].metadata), offline.summary(folder)
    accuracy = dict(offline.values([folder], "val/accuracy"))
    assert beside["best/val/accuracy"] == pytest.approx(max(accuracy.values())) and beside["best/step"] == best["step"]
    assert accuracy[best["step"] - 1] == max(accuracy.values())
    assert CLIPMapper.from_pretrained(tmp_path / "run" / "model").answers
    charts = [name for row in offline.history(folder) for name in row if name.startswith("explain/curves/")]
    assert any("image/probability" in name for name in charts)
    points = sorted((tmp_path / "run" / "csv").rglob("explain/curves/points-*.csv"))
    assert len(points) == 2 and '"rollout, most relevant removed first",0.0' in points[0].read_text()
    for name in ("question_only", "image_only"):
        (floor,) = offline.runs(tmp_path / "run" / "floors" / name)
        record = offline.run_record(floor)
        assert (record.job_type, record.run_group, record.display_name) == ("baseline", "run", name)
        assert len(offline.values([floor], "val/accuracy")) > 0


@pytest.mark.parametrize("content", ["{", "[]", '{"id": "", "steps": {}, "artifacts": {}}', '{"id": 3}', "\0"])
def test_a_damaged_memory_begins_a_new_run(tmp_path: Path, content: str) -> None:
    (tmp_path / MEMORY).write_text(content)
    with pytest.warns(UserWarning, match=r"wandb\.json cannot be read .*: a new W&B run begins"):
        assert Memory.read(tmp_path / MEMORY) is None


def test_no_place_to_write(tmp_path: Path) -> None:
    """W&B's folder cannot be made: a file has its name."""
    (tmp_path / "wandb").write_text("in the way")
    with pytest.warns(UserWarning, match="W&B could not start .*Not a directory.*: going on without W&B"):
        loggers = make_loggers(["wandb", "csv"], tmp_path, "toys", "first", {})
    for logger in loggers:
        logger.log_metrics({"loss": 1.0}, 0)
    finish(loggers)
    assert list((tmp_path / "csv").rglob("metrics.csv"))
