"""The main job as a user does it: train.py, then evaluate.py."""

import json
from pathlib import Path

import pytest

from clipmapper.config import ShapesConfig
from clipmapper.data.shapes.write import write_shapes

from .commands import call, start


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, ShapesConfig(train=60, val=20, test=10, questions=5))
    return root


@pytest.mark.slow
def test_training_and_evaluation_on_shapes(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--data.root", shapes, "--data.cache", tmp_path / "features"]
    call(
        tmp_path, "train.py", "--config", "mapper_b_vqa_shapes", *options, "--run.dir", run, "--run.floors", "true",
        "--run.loggers", "[csv]", "--trainer.max_steps", 6, "--optimizer.warmup_steps", 2, "--optimizer.decay_from", 4,
    )  # fmt: skip
    printed = call(tmp_path, "evaluate.py", "--checkpoint", run / "checkpoints" / "last.ckpt", "--output", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["accuracy"].keys() == {"overall", "yes/no", "number", "other"}
    assert metrics["floors"].keys() == {"question_only", "image_only"}
    assert all(0 <= value <= 100 for value in [*metrics["accuracy"].values(), *metrics["floors"].values()])
    assert metrics["questions"] == len(json.loads((run / "predictions.json").read_text())) >= 90
    assert metrics["accuracy_by_question_type"].keys() >= {"counting", "colour", "relation"}
    assert (run / "examples.png").stat().st_size > 10_000
    assert "question_only" in printed and "relation" in printed

    call(tmp_path, "evaluate.py", "--checkpoint", run / "checkpoints" / "last.ckpt", "--output", run, "--split", "test")
    results = json.loads((run / "vqa_test_results.json").read_text())
    asked = json.loads((shapes / "v2_OpenEnded_mscoco_test2015_questions.json").read_text())["questions"]
    assert {r["question_id"] for r in results} == {q["question_id"] for q in asked}
    assert all(isinstance(r["answer"], str) and r["answer"] for r in results)


@pytest.mark.slow
def test_real_images_and_questions_with_a_random_clip(shared_data: Path, tmp_path: Path) -> None:
    """VQAv2 and COCO samples, ViT-S-32 without weights: formats and arithmetic, no claim about accuracy."""
    root = tmp_path / "vqav2"
    root.mkdir()
    for source in [*(shared_data / "vqa").glob("v2_*.json"), *(shared_data / "images").iterdir()]:
        (root / source.name).symlink_to(source)
    run = tmp_path / "run"
    call(
        tmp_path, "train.py", "--config", "mapper_b_vqa", "--model.clip", "ViT-S-32", "--model.pretrained", "null",
        "--model.layers", 1, "--data.root", root,
        "--data.cache", tmp_path / "features", "--data.batch_size", 16, "--data.workers", 0, "--run.dir", run,
        "--run.loggers", "[csv]", "--trainer.max_steps", 2, "--trainer.precision", "32-true",
    )  # fmt: skip
    call(tmp_path, "evaluate.py", "--checkpoint", run / "checkpoints" / "last.ckpt", "--output", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["questions"] == 329 and not any(metrics["skipped"].values())


@pytest.mark.slow
def test_captions_of_shapes(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call(
        tmp_path, "train.py", "--config", "mapper_a_caption_shapes", "--data.root", shapes, "--data.cache", tmp_path / "features",
        "--run.dir", run, "--run.loggers", "[csv]", "--run.captioned", 8, "--trainer.max_steps", 6,
        "--optimizer.warmup_steps", 2, "--optimizer.decay_from", 4,
    )  # fmt: skip
    printed = call(
        tmp_path, "evaluate.py", "--checkpoint", run / "checkpoints" / "last.ckpt", "--output", run,
        environment={"PATH": str(tmp_path)},  # without Java, which takes seconds to start
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == len(json.loads((run / "captions.json").read_text())) == 20
    assert metrics["truth"]["random caption"]["readable"] == 100
    assert "CIDEr" in printed and "constant caption" in printed


@pytest.mark.slow
def test_real_captions_with_a_random_clip(shared_data: Path, tmp_path: Path) -> None:
    """COCO samples in Karpathy's splits, ViT-S-32 without weights: formats and arithmetic, no claim about quality."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for source in [*(shared_data / "images").iterdir(), *(shared_data / "annotations").glob("captions_*.json")]:
        (root / ("annotations" if source.suffix else "") / source.name).symlink_to(source)
    run = tmp_path / "run"
    call(
        tmp_path, "train.py", "--config", "mapper_b_caption", "--model.clip", "ViT-S-32", "--model.pretrained", "null",
        "--model.layers", 1, "--data.root", root,
        "--data.karpathy", shared_data / "karpathy", "--data.cache", tmp_path / "features", "--data.batch_size", 16,
        "--data.workers", 0, "--model.tokens", "seen", "--run.dir", run, "--run.loggers", "[csv]", "--trainer.max_steps", 2,
        "--trainer.precision", "32-true",
    )  # fmt: skip
    printed = call(
        tmp_path, "evaluate.py", "--checkpoint", run / "checkpoints" / "last.ckpt", "--output", run, "--split", "test"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] > 0 and not any(metrics["skipped"].values()) and metrics["truth"] == {}
    assert all(isinstance(metrics["floors"]["random caption"][name], float) for name in ("CIDEr", "RefCLIPScore"))
    assert "RefCLIPScore" in printed


def test_wrong_command_lines_say_what_is_right(tmp_path: Path) -> None:
    """The scripts leave with what tests/clipmapper/test_cli.py knows of them."""
    for command, told in (
        (["train.py", "--config", "maper_b_vqa"], "did you mean 'mapper_b_vqa'"),
        (["evaluate.py", "--checkpoint", "x.ckpt", "--output", tmp_path], "no checkpoint"),
    ):
        left = start(tmp_path, *command)
        assert left.wait() in (1, 2) and told in left.printed, left.printed
