"""Explanations in validation: training stays the same, and what is logged are the model's own values."""

import csv
import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipmapper.benchmark.callback import ExplainabilityCallback
from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.store import Results
from clipmapper.benchmark.summary import numbers
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.benchmark.tasks.held_out import common_answers, spread
from clipmapper.cli import Settings
from clipmapper.config import ModelConfig, ModelSource
from clipmapper.data.records import load_captions, load_records
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.run import run, task_and_data, train

from ...commands import call
from ...xai.generation.families import loaded
from ..explain.models import conftest as models
from ..training.test_run import assert_close, logged, same

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
SHORT = (
    *EXPLAINED,
    "--trainer.limit_train_batches=1",
    "--explain.methods=[wra]",
    "--explain.samples=2",
    "--explain.pictures=0",
)
MakeSettings = Callable[..., Settings]

# One tiny model of each kind.
answers, questions, saved, tables = models.answers, models.questions, models.saved, models.tables


def go(settings: Settings) -> dict[str, Any]:
    train(settings, load_records(settings.data))
    return read_checkpoint(settings.run.dir / "checkpoints" / "last.ckpt")


def test_training_is_the_same_and_the_values_are_those_of_the_model(settings: MakeSettings, tmp_path: Path) -> None:
    plain = go(settings("plain", "--trainer.max_epochs=1"))
    explained = go(settings("explained", *EXPLAINED))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(plain[part], explained[part]), part
    folder = tmp_path / "explained"
    for name in ("train/loss", "val/accuracy", "val/loss"):
        assert logged(tmp_path / "plain", name) == logged(folder, name)
    assert set(logged(folder, "explain/samples").values()) == {4.0}

    made = settings("again", *EXPLAINED)
    val: Any = task_and_data(made, load_records(made.data))[1].val
    model = MapperModel(CLIPMapper.from_pretrained(folder / "checkpoints" / "last.ckpt"))
    callback = ExplainabilityCallback(made.explain, made.data.root)
    rows = spread(val, 4)
    assert rows[0] == 0 and rows[-1] == len(val) - 1
    task = AnswersTask(model, val, rows, callback.benchmark, made.data.root)
    result = measure(task, range(4), callback.methods, callback.benchmark)
    values = numbers(Results(("wra", "rollout", "random"), {}, result.values, {}), task)
    for key in ("image/probability/srg", "text/accuracy/positive", "image/mass", "text/rank", "image_share"):
        for i, method in enumerate(("wra", "rollout", "random")):
            (value,) = logged(folder, f"explain/{key}/{method}").values()
            assert value == pytest.approx(float(np.nanmean(values[key][i])), abs=1e-4), key
    check_pictures(folder)


def check_pictures(folder: Path) -> None:
    (table,) = folder.rglob("tables/explain/methods-*.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [["trained", name] for name in ("wra", "rollout", "random")]
    assert {"image/probability/srg", "text/mass"} < set(lines[0])
    curves, picture = (next(folder.rglob(f"examples/explain/{name}/*/*.png")) for name in ("curves", "pictures"))
    assert min(Image.open(curves).size) > 200
    assert "(right: " in Image.open(picture).text["Description"]  # type: ignore[attr-defined]


def test_every_second_validation_also_after_a_resume(settings: MakeSettings, tmp_path: Path) -> None:
    options = (*SHORT, "--explain.every=2", "--trainer.val_check_interval=2", "--trainer.limit_train_batches=1.0")
    go(settings("run", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=6"))
    go(settings("run", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=8", "--run.resume=last"))
    assert list(logged(tmp_path / "run", "val/accuracy")) == [1, 3, 5, 7]
    assert list(logged(tmp_path / "run", "explain/samples")) == [3, 7]


def test_no_batch_is_begun_when_the_time_is_up(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("run", *EXPLAINED, "--explain.seconds=0", "--explain.pictures=0"))
    assert set(logged(tmp_path / "run", "explain/samples").values()) == {2.0}, "one batch"
    assert not list((tmp_path / "run").rglob("explain/pictures"))


def option(*references: ModelSource) -> str:
    plain = [{k: v for k, v in asdict(reference).items() if v is not None} for reference in references]
    return f"--explain.reference_models={json.dumps(plain, default=str)}"


def test_one_reference_model_of_each_kind(
    settings: MakeSettings, saved: dict[str, ModelSource], tmp_path: Path
) -> None:
    config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", width=16, heads=2, layers=1)
    CLIPMapper(config, ["yes", "no"]).save_pretrained(tmp_path / "mapper")
    llava = loaded("LLaVA")
    deepcopy(llava.model).float().save_pretrained(tmp_path / "llava")
    llava.processor.save_pretrained(tmp_path / "llava")
    references = (ModelSource(str(tmp_path / "mapper")), *saved.values(), ModelSource(str(tmp_path / "llava")))
    run(settings("run", *SHORT, "--explain.pictures=1", option(*references)))
    names = [reference.label for reference in references]
    (table,) = (tmp_path / "run").rglob("tables/explain/methods-*.csv")
    with open(table) as file:
        _, *rows = csv.reader(file)
    assert [row[:2] for row in rows] == [[name, m] for name in ("trained", *names) for m in ("wra", "random")]
    assert all(math.isfinite(float(value)) for row in rows for value in row[2:])
    assert len(list((tmp_path / "run").rglob("examples/explain/curves/*/*.png"))) == 1 + len(names)
    assert len(list((tmp_path / "run").rglob("examples/explain/reference/**/pictures/*/*.png"))) == len(names)
    for name in names:
        assert list(logged(tmp_path / "run", f"explain/reference/{name}/samples").values()) == [2.0], "once"


def test_a_reference_of_the_same_weights_has_the_same_values(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("first", "--trainer.max_epochs=1"))
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    go(settings("run", *EXPLAINED, f"--explain.reference_models=[{checkpoint}]", "--explain.pictures=0"))
    key = "image/probability/srg/wra"
    (reference,) = logged(tmp_path / "run", f"explain/reference/{checkpoint}/{key}").values()
    (end,) = logged(tmp_path / "run", f"explain/{key}").values()
    assert reference == pytest.approx(end, abs=1e-7)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--explain.methods=[wraa]", "unknown method 'wraa'; did you mean 'wra'"),
        ("--explain.reference_models=[lxmert]", "explain.reference_models: 'lxmert' cannot be explained"),
        ("--explain.reference_models=[shapes-b-caption]", "writes captions; beside answers name a model that answers"),
        ("--explain.reference_models=[{kind: lxmert, name: a/b}]", "name their table as `regions`"),
        ("--model.sees=question", "sees question only"),
    ],
)
def test_what_cannot_be_explained_is_said_before_training(settings: MakeSettings, extra: str, message: str) -> None:
    with pytest.raises(SystemExit) as left:
        run(settings("run", *EXPLAINED, extra))
    assert message in str(left.value)
    assert not list(settings("run").run.dir.rglob("*.ckpt"))


def test_images_without_regions_are_said_before_training(
    settings: MakeSettings, saved: dict[str, ModelSource], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    reference = ModelSource(saved["lxmert"].name, "lxmert", regions=tmp_path / "empty")
    with pytest.raises(SystemExit) as left:
        run(settings("run", *SHORT, option(reference)))
    message = str(left.value)
    assert "explain.reference_models" in message and "no regions of image" in message and "Leave it out" in message
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_random_numbers_are_left_alone(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training seeds each step itself; whatever else draws numbers must not notice either."""
    states: list[Tensor] = []
    hook = ExplainabilityCallback.on_validation_epoch_end

    def watched(self: ExplainabilityCallback, *arguments: Any) -> None:
        states.append(torch.get_rng_state())
        hook(self, *arguments)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(ExplainabilityCallback, "on_validation_epoch_end", watched)
    go(settings("run", *SHORT, "--explain.methods=[smoothgrad]", "--explain.samples=1"))
    assert torch.equal(*states)


def test_the_commonest_answers_come_first(settings: MakeSettings) -> None:
    made = settings("run")
    records = load_records(made.data)
    data: Any = task_and_data(made, records)[1]
    common = list(data.train.records["answer"])
    ordered = common_answers(data, sorted(records.vocabulary.answers))
    counts = [common.count(answer) for answer in ordered]
    assert sorted(ordered) == sorted(records.vocabulary.answers) and counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_captions_are_explained_too(settings: MakeSettings, tmp_path: Path) -> None:
    options = (
        *EXPLAINED,
        "--model.task=caption",
        "--model.pretrained=shapes",
        "--run.captioned=2",
        "--explain.samples=2",
        "--model.tokens=seen",
    )
    made = settings("run", *options, "--explain.methods=[genatt]", "--trainer.limit_train_batches=2")
    train(made, load_captions(made.data))
    folder = tmp_path / "run"
    for key in ("caption/RefCLIPScore/srg/genatt", "caption/log_probability/positive/random"):
        (value,) = logged(folder, f"explain/{key}").values()
        assert math.isfinite(value)
    pictures = list(folder.rglob("examples/explain/pictures/*/*.png"))
    assert any("word by word" in Image.open(path).text["Description"] for path in pictures)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_two_processes_explain_what_one_does(tiny_config: Path, tmp_path: Path) -> None:
    """Of 5 questions one process has three batches and the other two."""
    options = ["--model.dropout=0", *EXPLAINED, "--explain.samples=5", "--explain.batch_size=1"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=13"]
    for name, own in (("one", ["--data.batch_size=26"]), ("two", two)):
        call(tmp_path, "train.py", f"--config={tiny_config}", f"--run.dir={name}", *options, *own)
    one, both = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two"))
    assert_close(both["state_dict"], one["state_dict"])
    for name in (
        "samples",
        "image/probability/srg/wra",
        "text/probability/positive/rollout",
        "image/mass/wra",
        "image_share/wra",
    ):
        values = [logged(tmp_path / folder, f"explain/{name}") for folder in ("one", "two")]
        assert list(values[0].values()) == pytest.approx(list(values[1].values()), abs=1e-4), name
    check_pictures(tmp_path / "two")
