"""What an evaluation logs, read back; where it logs nothing."""

import csv
import json
from pathlib import Path

import pytest

from clipmapper.cli import parse_training
from clipmapper.commands import evaluate
from clipmapper.evaluation.command import loggers_of
from clipmapper.training.run import run

from ..logs import offline


@pytest.fixture
def checkpoint(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The best checkpoint of a run that W&B has."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = [f"--config={tiny_config}", f"--run.dir={tmp_path / 'run'}", "--trainer.max_epochs=1"]
    run(parse_training([*arguments, "--run.loggers=[wandb]"], tiny_config.parent))
    return tmp_path / "run" / "checkpoints" / "best.ckpt"


def test_results_in_all_loggers(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    explained = ["--explainers=rollout", "--samples=3", "--protocol=wra", "--benchmark.cost_samples=0"]
    loggers = ["--loggers=[wandb, csv, tensorboard]"]
    evaluate([f"--model={checkpoint}", f"--output={output}", "--accelerator=cpu", *explained, *loggers])
    metrics = json.loads((output / "metrics.json").read_text())
    (folder,) = offline.runs(output)
    ((_, accuracy),) = offline.values([folder], "accuracy/overall")
    assert accuracy == metrics["accuracy"]["overall"]
    key = "image/probability/srg"
    (row,) = (row for row in offline.history(folder) if f"explain/{key}/rollout" in row)
    mean = metrics["explainers"]["methods"]["rollout"]["metrics"][key]["mean"]
    assert row[f"explain/{key}/rollout"] == pytest.approx(mean)
    (artifact,) = (a for a in offline.artifacts(folder) if a.type == "evaluation")
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert files["values.parquet"].samefile(output / "values.parquet")
    assert {"metrics.json", "predictions.json", "report.html", "curves.png"} < files.keys()
    training = offline.run_record(*offline.runs(tmp_path / "run"))
    used = f"clipmapper/model-{training.run_id}:best"
    assert offline.config(folder)["model_artifact"] == used and json.loads(artifact.metadata)["checkpoint"] == used
    assert offline.run_record(folder).job_type == "evaluation"
    (table,) = folder.rglob("explain/methods_*.table.json")
    content = json.loads(table.read_text())
    assert "number" in json.dumps(content) or all(isinstance(line[1], float) for line in content["data"])
    (beside,) = (output / "csv").rglob("tables/explain/methods-*.csv")
    with open(beside) as file:
        columns, *rows = csv.reader(file)
    assert columns[0] == "method" and f"{key} low" in columns
    by_method = {line[0]: line[columns.index(key)] for line in rows}
    assert float(by_method["rollout"]) == pytest.approx(mean)
    assert list((output / "csv").rglob("examples/pictures/curves/*/*.png"))
    assert list((output / "tensorboard").rglob("events*"))


def test_nothing_is_logged_unless_asked(checkpoint: Path, tmp_path: Path) -> None:
    evaluate([f"--model={checkpoint}", f"--output={tmp_path / 'results'}", "--accelerator=cpu"])
    assert {path.name for path in (tmp_path / "results").iterdir() if path.is_dir()} <= {"answers"}


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        (["wandbb"], "val", "unknown logger 'wandbb'; did you mean 'wandb'"),
        (["csv", "csv"], "val", "each logger once"),
        ([], "val", "names none"),
        (["wandb"], "test-dev", "--loggers does nothing here: --split test-dev has no answers"),
    ],
)
def test_loggers_that_do_nothing_are_refused(names: list[str], split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loggers_of(names, {"--loggers"}, split)
    assert loggers_of([], set(), "test") == []
