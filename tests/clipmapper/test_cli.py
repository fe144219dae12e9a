"""The command line: named files, overrides, and what is refused with which words."""

import inspect
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

from clipmapper.cli import Settings, named, parse_training
from clipmapper.config import TrainerConfig
from clipmapper.config.trainer import RESERVED
from clipmapper.evaluation.command import parse_evaluation
from clipmapper.training.run import run

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = [f"mapper_{m}_{task}{twin}" for m in "ab" for task in ("caption", "vqa") for twin in ("", "_shapes")]


def parse(*arguments: str) -> Settings:
    return parse_training(arguments, CONFIGS)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said to arguments that must be refused."""
    with pytest.raises(SystemExit) as left:
        parse(*arguments)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_the_named_configurations_are_there_and_valid() -> None:
    assert set(SHIPPED) <= set(named(CONFIGS))
    for name in SHIPPED:
        settings = parse("--config", name)
        assert (settings.model.mapper, settings.model.task) == tuple(name.split("_")[1:3])
        assert (settings.data.shapes is not None) == name.endswith("shapes")
        assert settings.model.clip == ("shapes-vit-8" if name.endswith("shapes") else "ViT-B-32")


@pytest.mark.parametrize("given", [["--config", "mapper_b_vqa"], ["--config=mapper_b_vqa"]])
def test_every_value_can_be_overridden(given: list[str]) -> None:
    options = ["--model.heads", "2", "--data.cache", "null", "--optimizer.betas=[0.5,0.6]", "--run.seed=7"]
    settings = parse(*given, *options, "--trainer.max_steps=12", "--data.root", "elsewhere")
    assert (settings.model.heads, settings.data.cache, settings.optimizer.betas) == (2, None, (0.5, 0.6))
    assert (settings.run.seed, settings.trainer.max_steps, settings.data.root) == (7, 12, Path("elsewhere"))
    assert settings.plain["data"]["root"] == "elsewhere" and settings.plain["optimizer"]["betas"] == [0.5, 0.6]
    assert yaml.safe_load(yaml.safe_dump(settings.plain)) == settings.plain, "only plain values go into a checkpoint"


def test_a_file_outside_the_folder_works_too(file: Path) -> None:
    file.write_text("data: {hub: {name: some/data, columns: {image: picture}}}")
    settings = parse(f"--config={file}")
    assert settings.data.hub is not None and settings.data.hub.columns == {"image": "picture"}


def test_unknown_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--config", "mapper_b_vqa_shape")
    assert "unknown configuration 'mapper_b_vqa_shape'; did you mean 'mapper_b_vqa_shapes'?" in message


def test_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys)
    assert "give --config with one of" in message and all(name in message for name in SHIPPED)


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("--model.heds=3", "model.heads"),
        ("--optimizer.warm_up=3", "optimizer.warmup_steps"),
        ("--trainer.max_stpes=3", "trainer.max_steps"),
        ("--run.resum=last", "run.resume"),
        ("--optimizer.learning_rate=1", "optimizer.lr"),
        ("--trainer.lr=1", "optimizer.lr"),
        ("--data.num_workers=2", "data.workers"),
        ("--data.bs=2", "data.batch_size"),
        ("--run.early_stopping_patience=2", "run.patience"),
    ],
)
def test_unknown_key_on_the_command_line(capsys: pytest.CaptureFixture[str], option: str, near: str) -> None:
    message = refused(capsys, "--config", "mapper_b_vqa", option)
    assert option.removeprefix("--").split("=")[0] in message and f"did you mean {near}?" in message


@pytest.mark.parametrize(
    ("content", "near"),
    [
        ("model: {heds: 3}", "model.heads"),
        ("modell: {heads: 3}", "model.heads"),
        ("data: {roots: x}", "data.root"),
        ("optimizer: {learning_rate: 1}", "optimizer.lr"),
    ],
)
def test_unknown_key_in_a_file(capsys: pytest.CaptureFixture[str], file: Path, content: str, near: str) -> None:
    file.write_text(content)
    assert f"did you mean {near}?" in refused(capsys, f"--config={file}")


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--model.heads=many", ("model.heads", "int", "many")),
        ("--model.mapper=c", ("model.mapper", "'a', 'b'", "c")),
        ("--data.workers=-1", ("data.workers is -1", "0 or more")),
        ("--data.batch_size=0", ("data.batch_size is 0", "above 0")),
        ("--optimizer.lr=0", ("optimizer.lr is 0", "above 0")),
        ("--optimizer.decay_from=1", ("optimizer.decay_from is 1", "at least warmup_steps")),
        ("--model.dropout=1", ("model.dropout is 1", "in [0, 1)")),
        ("--run.loggers=[wandbb]", ("unknown logger 'wandbb'", "did you mean 'wandb'?")),
        ("--run.examples=-2", ("run.examples is -2", "0 or more")),
        ("--run.patience=-1", ("run.patience is -1", "above 0, or null")),
        ("--data.hub={name: x}", ("data.hub", "give one of them")),
        ("--trainer.gradient_clip_val=-1", ("gradient_clip_val is -1", "0 or more, or null")),
        ("--trainer.check_val_every_n_epoch=0", ("check_val_every_n_epoch is 0", "above 0")),
        ("--trainer.num_sanity_val_steps=-2", ("num_sanity_val_steps is -2", "-1 for all")),
        ("--explain.seconds=-1", ("explain.seconds is -1", "0 or more")),
        ("--trainer.val_check_interval=1.5", ("val_check_interval is 1.5", "whole number of batches")),
        ("--trainer.limit_val_batches=-1", ("limit_val_batches is -1", "0 or more batches")),
        ("--trainer.barebones=true", ("trainer.barebones is set by the run itself", "leave it out")),
        ("--model.tied=false", ("model.tied acts with model.task caption alone",)),
        ("--trainer.logger=false", ("trainer.logger is set by the run itself", "run.loggers")),
    ],
)
def test_wrong_values(capsys: pytest.CaptureFixture[str], option: str, parts: tuple[str, ...]) -> None:
    message = refused(capsys, "--config", "mapper_b_vqa_shapes", option)
    assert all(part in message for part in parts), message


def test_file_that_is_not_yaml_is_named(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text("model: [")
    assert f"{file} is not YAML" in refused(capsys, f"--config={file}")


@pytest.mark.parametrize("content", ["data: {root: Bär}".encode("latin-1"), "checkpoint", b"- 1\n- 2", b"words"])
def test_a_file_that_holds_no_settings_is_named(
    capsys: pytest.CaptureFixture[str], file: Path, content: bytes | str
) -> None:
    if isinstance(content, str):
        torch.save({"state_dict": {}}, file)
    else:
        file.write_bytes(content)
    for parse_words, configs in ((parse_training, CONFIGS), (parse_evaluation, CONFIGS)):
        with pytest.raises(SystemExit):
            parse_words([f"--config={file}", "--model=x", "--output=y"], configs)
        said = capsys.readouterr().err
        assert said.startswith(f"error: {file} ") and "Traceback" not in said


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_needs_no_configuration(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as left:
        parse(option)
    assert left.value.code == 0
    assert "--optimizer.warmup_steps" in capsys.readouterr().out


def test_reading_the_command_line_waits_for_no_torch() -> None:
    code = f"""
import sys
from pathlib import Path
from clipmapper.cli import parse_training
try:
    parse_training(sys.argv[1:], Path({str(CONFIGS)!r}))
finally:
    print(*{{"torch", "pytorch_lightning", "transformers", "numpy"}} & {{*sys.modules}})
"""
    for arguments, code_of_exit in ((["--config=mapper_b_vqa"], 0), (["--config=mapper_b_vqa", "--run.sed=1"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=CONFIGS.parent, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.split()) == (code_of_exit, []), done.stderr


def test_trainer_has_every_option_of_lightning_with_its_default() -> None:
    """But those that only newer versions have, which are reserved."""
    theirs = {name: option.default for name, option in inspect.signature(pl.Trainer).parameters.items()}
    assert {*theirs} - {*RESERVED} == {*asdict(TrainerConfig())}
    for name, value in asdict(TrainerConfig()).items():
        assert value == theirs[name], name


def test_missing_data_names_paths_command_and_twin(tmp_path: Path) -> None:
    settings = parse("--config=mapper_b_vqa", f"--data.root={tmp_path / 'no'}", f"--run.dir={tmp_path / 'run'}")
    with pytest.raises(SystemExit) as left:
        run(settings)
    said = str(left.value)
    for split in ("train", "val"):
        for name in (f"v2_OpenEnded_mscoco_{split}2014_questions.json", f"v2_mscoco_{split}2014_annotations.json"):
            assert f"{tmp_path / 'no' / name}: missing" in said
    assert f"python -m clipmapper.download --root {tmp_path / 'no'}" in said
    assert "python train.py --config mapper_b_vqa_shapes" in said
    assert list(tmp_path.iterdir()) == [], "nothing is written before the data is found"


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_the_caption_twins_are_validated_at_their_last_step(mapper: str) -> None:
    """Else the best checkpoint would be an earlier one. A scene of Shapes has five captions."""
    settings = parse(f"--config=mapper_{mapper}_caption_shapes")
    assert settings.data.shapes is not None
    batches = math.ceil(5 * settings.data.shapes.train / settings.data.batch_size)
    interval = int(batches * settings.trainer.val_check_interval)
    assert settings.trainer.max_steps == 2 * interval


@pytest.mark.parametrize(
    "content",
    ["model: {heads: x}", "model: {heads: 0}", "", "data: {shapes: {train: {a: 1}}}", "data: {shapes: {x: 1}}",
     "data: {hub: {}}", "'': 1", "null: 1", "{a: " * 3000, "model: {heads: " + "9" * 5000 + "}"],
)  # fmt: skip
def test_the_file_of_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str], file: Path, content: str) -> None:
    file.write_text(content)
    assert str(file) in refused(capsys, "--config", str(file))


@pytest.mark.parametrize(
    "content", ["model: x", "data: [1]", "model: {heads: x}", "model: {heds: 3}", "model: {heads: 0}"]
)
def test_the_file_of_a_wrong_setting_of_an_evaluation_is_named(
    capsys: pytest.CaptureFixture[str], file: Path, content: str
) -> None:
    file.write_text(content)
    with pytest.raises(SystemExit):
        parse_evaluation(["--model=shapes-b-vqa", "--output=out", f"--config={file}"], CONFIGS)
    assert str(file) in capsys.readouterr().err
