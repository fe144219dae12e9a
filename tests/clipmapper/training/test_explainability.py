"""Explanations in validation: what they log, that they leave training alone, time limits, several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clipmapper.training.answer_study import AnswerStudy
from clipmapper.training.explainability import ExplainabilityCallback
from PIL import Image
from torch import Tensor

from clipmapper.cli import Settings
from clipmapper.comparison.explained import ask, explain_all
from clipmapper.comparison.measure import measure, truth_of
from clipmapper.config import ReferenceConfig
from clipmapper.data.records import load_records
from clipmapper.explain.models.load import load_reference
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.training.run import run, task_and_data, train
from clipmapper.training.tasks import model_from_checkpoint
from xai.metrics.protocols import area as area_of
from xai.metrics.protocols import named
from xai.metrics.protocols import srg as srg_of

from .test_run import assert_close, logged, same

REPOSITORY = Path(__file__).parents[3]
EXPLAINED = (
    "--explain.every=1",
    "--explain.methods=[wra,rollout]",
    "--explain.samples=4",
    "--explain.batch_size=2",
    "--explain.pictures=1",
    "--explain.protocol=wra",
    "--explain.seconds=null",
    "--trainer.max_epochs=1",
)
MakeSettings = Callable[..., Settings]


def go(settings: Settings) -> dict[str, Any]:
    train(settings, load_records(settings.data))
    return read_checkpoint(settings.run.dir / "checkpoints" / "last.ckpt")


def test_training_is_the_same_and_figures_are_those_of_the_model(settings: MakeSettings, tmp_path: Path) -> None:
    plain = go(settings("plain", "--trainer.max_epochs=1"))
    explained = go(settings("explained", *EXPLAINED))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(plain[part], explained[part]), part
    for name in ("train/loss", "val/accuracy", "val/loss"):
        assert logged(tmp_path / "plain", name) == logged(tmp_path / "explained", name)
    folder = tmp_path / "explained"
    assert set(logged(folder, "explain/samples").values()) == {4.0}

    made = settings("again", *EXPLAINED)
    records = load_records(made.data)
    model = model_from_checkpoint(explained, "it")
    val = task_and_data(made, records)[1].val
    rows = AnswerStudy(made.explain, None).rows(val)
    assert len(rows) == 4 and rows[0] == 0 and rows[-1] == len(val) - 1
    expected = measure(
        model, explain_all(model, ask(model, val, rows), ("wra", "rollout")), "wra", truth_of(made.data.root)
    )
    for key in ("image/probability", "text/accuracy"):
        areas = area_of(torch.from_numpy(expected.curves[key]).double(), named("wra", key.split("/")[0]).shares)
        for i, method in enumerate(expected.methods):
            (positive,) = logged(folder, f"explain/{key}/{method}/positive").values()
            (gain,) = logged(folder, f"explain/{key}/{method}/srg").values()
            assert positive == pytest.approx(float(areas[i, 0].mean()), abs=1e-4)
            assert gain == pytest.approx(float(srg_of(areas)[i].mean()), abs=1e-4)
    for name, by_method in expected.figures.items():
        (value,) = logged(folder, f"explain/{name}/wra").values()
        assert value == pytest.approx(float(torch.from_numpy(by_method[0]).nanmean()), abs=1e-4), name
    check_pictures(folder)


def check_pictures(folder: Path) -> None:
    (table,) = folder.rglob("tables/*.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [["trained", name] for name in ("wra", "rollout", "random")]
    assert "image/probability/srg" in lines[0] and len(lines[0]) == 2 + 12
    curves, picture = (next(folder.rglob(f"examples/explain%2F{name}/*/*.png")) for name in ("curves", "pictures"))
    assert min(Image.open(curves).size) > 300
    assert "(right: " in Image.open(picture).text["Description"]  # type: ignore[attr-defined]


def test_every_second_validation_also_after_a_resume(settings: MakeSettings, tmp_path: Path) -> None:
    options = (*EXPLAINED, "--explain.every=2", "--trainer.val_check_interval=2")
    go(settings("run", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=6"))
    go(settings("run", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=8", "--run.resume=last"))
    assert list(logged(tmp_path / "run", "val/accuracy")) == [1, 3, 5, 7]
    assert list(logged(tmp_path / "run", "explain/samples")) == [3, 7]


def test_no_batch_is_begun_when_the_time_is_up(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("run", *EXPLAINED, "--explain.seconds=0", "--explain.pictures=0"))
    assert set(logged(tmp_path / "run", "explain/samples").values()) == {2.0}, "one batch"
    assert not list((tmp_path / "run").rglob("explain%2Fpictures"))


def test_a_reference_model_is_explained_once_on_the_same_questions(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("first", "--trainer.max_epochs=1"))
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    options = ("--trainer.val_check_interval=4", f"--explain.reference_models=[{checkpoint}]")
    go(settings("run", *EXPLAINED, *options))
    folder, name = tmp_path / "run", "image/probability/wra/srg"
    (reference,) = logged(folder, f"explain/reference/{checkpoint}/{name}").values()
    middle, end = logged(folder, f"explain/{name}").values()
    assert reference == pytest.approx(end, abs=1e-7) != middle, "the same seed ends with the same weights"
    for table in folder.rglob("tables/*.csv"):
        models = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
        assert models == ["trained"] * 3 + [str(checkpoint)] * 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--explain.methods=[wraa]", "unknown explainer 'wraa'; did you mean 'wra'"),
        ("--explain.reference_models=[lxmert]", "may name a CLIPMapper for vqa: a checkpoint"),
        ("--explain.reference_models=[{kind: lxmert, name: a/b}]", "name their table as `regions`"),
        ("--model.sees=question", "sees question only"),
    ],
)
def test_what_cannot_be_explained_is_said_before_training(settings: MakeSettings, option: str, message: str) -> None:
    with pytest.raises(SystemExit) as left:
        run(settings("run", *EXPLAINED, option))
    assert message in str(left.value)
    assert not list(settings("run").run.dir.rglob("*.ckpt"))


def test_a_reference_that_is_something_else(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of CLIPmapper"):
        load_reference(ReferenceConfig(str(tmp_path / "other.ckpt")), ())


def test_random_numbers_are_left_alone(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training seeds each step itself; whatever else draws numbers must not notice either."""
    states: list[Tensor] = []
    hook = ExplainabilityCallback.on_validation_epoch_end

    def watched(self: ExplainabilityCallback, *arguments: Any) -> None:
        states.append(torch.get_rng_state())
        hook(self, *arguments)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(ExplainabilityCallback, "on_validation_epoch_end", watched)
    go(settings("run", *EXPLAINED, "--explain.methods=[smoothgrad]", "--explain.samples=1"))
    assert torch.equal(*states)


@pytest.mark.slow
def test_two_processes_explain_what_one_does(tiny_config: Path, tmp_path: Path) -> None:
    """Of 5 questions one process has three and the other two."""
    options = ["--model.dropout=0", *EXPLAINED, "--explain.samples=5"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=13"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    for name, own in (("one", ["--data.batch_size=26"]), ("two", two)):
        command = [
            sys.executable,
            str(REPOSITORY / "train.py"),
            f"--config={tiny_config}",
            f"--run.dir={tmp_path / name}",
        ]
        subprocess.run([*command, *options, *own], check=True, timeout=180, env=environment, cwd=tmp_path)
    one, both = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two"))
    assert_close(both["state_dict"], one["state_dict"])
    for name in (
        "samples",
        "image/probability/wra/srg",
        "text/probability/rollout/positive",
        "truth/image_mass/wra",
        "image_share/wra",
    ):
        values = [logged(tmp_path / folder, f"explain/{name}") for folder in ("one", "two")]
        assert list(values[0].values()) == pytest.approx(list(values[1].values()), abs=1e-4), name
    assert set(logged(tmp_path / "two", "explain/samples").values()) == {5.0}
    check_pictures(tmp_path / "two")
