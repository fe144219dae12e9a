"""The command line of evaluate.py: what acts, its other names, and where the rest belongs."""

from pathlib import Path

import pytest

from clipmapper.config import ModelSource
from clipmapper.evaluation.command import EvaluationSettings, parse_evaluation
from clipmapper.evaluation.run import run

CONFIGS = Path(__file__).parents[3] / "configs"


def parse(*words: str) -> EvaluationSettings:
    return parse_evaluation(["--model=x.ckpt", "--output=y", *words], CONFIGS)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        parse_evaluation(words, CONFIGS)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_the_data_given_and_nothing_else_overrides() -> None:
    assert parse("--data.cache", "null", "--data.workers", "0").data == {"cache": None, "workers": 0}
    from_file = parse("--config", "mapper_b_vqa_shapes", "--data.shapes.train", "7").data
    assert from_file["root"] == "data/shapes" and from_file["shapes"]["train"] == 7


def test_names_of_the_readme_stay() -> None:
    settings = parse_evaluation(
        [
            "--checkpoint",
            "shapes-b-vqa",
            "--output",
            "results",
            "--explainers",
            "all",
            "--samples=20",
            "--protocol",
            "wra",
        ],
        CONFIGS,
    )
    assert settings.models == [ModelSource("shapes-b-vqa")] and settings.output == Path("results")
    assert settings.benchmark is not None
    assert (settings.benchmark.methods, settings.benchmark.samples, settings.benchmark.protocol) == ("all", 20, "wra")
    assert parse().benchmark is None


def test_several_models() -> None:
    models = parse("--model", "{name: a/b, regions: r.tsv}", "--checkpoint=last.ckpt").models
    assert models == [ModelSource("x.ckpt"), ModelSource("a/b", regions=Path("r.tsv")), ModelSource("last.ckpt")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.accelerator=cpu", "acts in training alone; here it is --accelerator"),
        ("--explain.protocol=wra", "here it is --benchmark.protocol"),
        ("--run.seed=1", "here it is --benchmark.seed"),
        ("--optimizer.lr=1", "--optimizer.lr acts in training alone; leave it out"),
        ("--trainer.precision=16", "--trainer.precision acts in training alone"),
        ("--model.heads=2", "--model.heads acts in training alone"),
        (
            "--benchmark.samples=3",
            "--benchmark.samples acts only where explainers are compared: give --benchmark.methods too",
        ),
        ("--samples=3", "--benchmark.samples acts only where explainers are compared"),
        ("--benchmark.smaples=3", "did you mean benchmark.samples"),
        ("--decoding.beams=0", "decoding.beams"),
        ("--split=vall", "'val'"),
        ("--config=mapper_c", "unknown configuration 'mapper_c'"),
    ],
)
def test_what_does_not_act_is_refused(capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    assert message in refused(capsys, "--model=x.ckpt", "--output=y", option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=y"], "--model is missing"),
        (["--model=x.ckpt"], "--output is missing"),
        (["--model=x.ckpt", "--output=y", "--explainers="], "benchmark.methods names no method"),
        (
            ["--model=x.ckpt", "--output=y", "--explainers=all", "--samples=0"],
            "benchmark.samples is 0 and must be above 0",
        ),
        (["--model={regions: r}", "--output=y"], "has no name"),
    ],
)
def test_what_is_missing_or_out_of_range(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert message in refused(capsys, *options)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("shapes-b-vqa", []),
        ("shapes-b-vqa", ["--split=test"]),
        ("shapes-b-caption", []),
        ("{name: 'shapes-vit-8:shapes', answers: ANSWERS}", []),
    ],
)
def test_a_model_of_shapes_without_data_is_told_how_to_make_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    model = model.replace("ANSWERS", str(tmp_path / "answers.json"))
    for root, folder in (([], "data/shapes"), ([f"--data.root={tmp_path / 'no'}"], tmp_path / "no")):
        with pytest.raises(SystemExit) as left:
            run(parse_evaluation([f"--model={model}", f"--output={tmp_path / 'out'}", *options, *root], CONFIGS))
        said = str(left.value)
        assert f"python -m clipmapper.data.shapes --root {folder}\nand name its folder: --data.root {folder}" in said
        assert "clipmapper.download" not in said and "train.py" not in said
