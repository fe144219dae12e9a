"""Captions end to end with a tiny model: a run, its validation figures, an interrupted run, and its evaluation."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipmapper.cli import Settings
from clipmapper.data.captions import CaptionData, seen_tokens
from clipmapper.data.records import load_captions
from clipmapper.evaluation import run as evaluation
from clipmapper.evaluation.captions import best_constant, random_captions
from clipmapper.evaluation.command import parse_evaluation
from clipmapper.models.checkpoints import check_checkpoint, read_checkpoint
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.run import task_and_data, train
from clipmapper.training.tasks import CaptionTask

EPOCH = 13  # batches of 100 captions
CAPTION = ("--model.task=caption", "--model.tokens=seen", "--run.captioned=4")
MakeSettings = Callable[..., Settings]


@pytest.fixture
def caption(settings: MakeSettings) -> MakeSettings:
    return lambda name, *options: settings(name, *CAPTION, *options)


def go(settings: Settings) -> dict[str, Any]:
    train(settings, load_captions(settings.data))
    return read_checkpoint(settings.run.dir / "checkpoints" / "last.ckpt")


def logged(folder: Path, name: str) -> dict[int, float]:
    rows = [row for path in sorted(folder.rglob("metrics.csv")) for row in csv.DictReader(path.open())]
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_every_trained_weight_gets_a_gradient_and_no_other(caption: MakeSettings, mapper: str) -> None:
    settings = caption("run", f"--model.mapper={mapper}", "--model.layers=2")
    task, data = task_and_data(settings, load_captions(settings.data))
    batch = data.train[[0, 7, 50]]
    task.loss(batch).backward()
    assert all((p.grad is not None) == p.requires_grad for p in task.model.parameters())
    assert all(p.grad is None for p in task.model.clip.parameters())


def test_loss_is_that_of_each_next_token_of_each_caption(caption: MakeSettings) -> None:
    settings = caption("run", "--optimizer.label_smoothing=0.2", "--model.dropout=0")
    task, data = task_and_data(settings, load_captions(settings.data))
    assert isinstance(task, CaptionTask)
    batch = data.train[[0, 7, 50]]
    model, losses = task.model, {0.0: [], 0.2: []}
    for smoothing, found in losses.items():
        for i in range(3):
            ids = batch["ids"][i][batch["mask"][i]]
            for t in range(len(ids) - 1):
                beginning = ids[None, : t + 1]
                tokens = model.clip.image_tokens(batch["image"][i : i + 1])
                logits = model(tokens, beginning, torch.ones_like(beginning, dtype=torch.bool))[0, -1]
                wanted = torch.full_like(logits, smoothing / len(logits))
                wanted[model.tokens.index(ids[t + 1])] += 1 - smoothing
                found.append(-(wanted * logits.log_softmax(0)).sum())
    assert task.token_loss(batch)[0].item() == pytest.approx(torch.stack(losses[0.0]).mean().item(), rel=1e-5)
    assert task.token_loss(batch)[1] == len(losses[0.0])
    assert task.loss(batch).item() == pytest.approx(torch.stack(losses[0.2]).mean().item(), rel=1e-5)


def test_tokens_the_head_lacks_are_left_out_of_the_loss(caption: MakeSettings) -> None:
    settings = caption("run", "--model.dropout=0")
    task, data = task_and_data(settings, load_captions(settings.data))
    assert isinstance(task, CaptionTask)
    batch = data.train[[0]]
    _, count = task.token_loss(batch)
    task.model.numbers[batch["ids"][0, 2]] = -100
    occurs = int((batch["ids"][0] == batch["ids"][0, 2]).sum())
    loss, fewer = task.token_loss(batch)
    assert fewer == count - occurs and torch.isfinite(loss)


def test_run_logs_and_resumes(caption: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = go(caption("whole", "--run.examples=2"))
    folder = tmp_path / "whole"
    for name in ("val/loss", "val/CIDEr", "val/BLEU-4", "val/skipped"):
        assert list(logged(folder, name)) == [EPOCH - 1, 2 * EPOCH - 1], name
    assert logged(folder, "train/loss")[2 * EPOCH - 1] < logged(folder, "train/loss")[0]
    assert len(list(folder.rglob("examples/val/*/*/*.png"))) == 4
    assert (folder / "checkpoints" / "best.ckpt").is_file()

    class Killed(BaseException):
        pass

    start = CaptionTask.on_train_batch_start

    def dying(self: CaptionTask, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.trainer.current_epoch * EPOCH + batch_idx == 17:
            raise Killed
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CaptionTask, "on_train_batch_start", dying)
        go(caption("cut"))
    cut = go(caption("cut", "--run.resume=last"))
    assert all(value.equal(cut["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert logged(tmp_path / "cut", "val/CIDEr") == logged(folder, "val/CIDEr")


def test_validation_scores_what_the_model_writes(
    caption: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a model that says an annotator's caption of each image, BLEU-4 is 1."""

    def copied(self: CaptionTask, batch: dict[str, Tensor], _: Any) -> list[str]:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CaptionData)
        return [data.val.references(row)[0] for row in batch["row"].tolist()]

    monkeypatch.setattr(CaptionTask, "captions", copied)
    go(caption("run", "--trainer.max_epochs=1"))
    assert logged(tmp_path / "run", "val/BLEU-4")[EPOCH - 1] == pytest.approx(1)


def test_checkpoint_and_saved_model_write_the_same(
    caption: MakeSettings, settings: MakeSettings, tmp_path: Path, shapes_root: Path
) -> None:
    checkpoint = go(caption("run", "--trainer.max_epochs=1"))
    model = CLIPMapper._of_checkpoint(checkpoint, "x.ckpt")
    image = next((shapes_root / "val2014").iterdir())
    model.save_pretrained(tmp_path / "saved")
    loaded = CLIPMapper.from_pretrained(tmp_path / "saved")
    assert loaded.config.task == "caption" and loaded.tokens == model.tokens
    assert loaded.caption(image) == model.caption(image)
    other = CLIPMapper(model.config, tokens=model.tokens[:-3] + model.tokens[-2:])
    with pytest.raises(ValueError, match=r"x\.ckpt writes \d+ BPE tokens, this run's captions have \d+ or others"):
        check_checkpoint(checkpoint, other, "x.ckpt")
    vqa = CLIPMapper(settings("x").model, ["yes"])
    with pytest.raises(ValueError, match=r"x\.ckpt: model\.task is 'caption' there and 'vqa' here"):
        check_checkpoint(checkpoint, vqa, "x.ckpt")


def test_checkpoints_made_before_captions_load(settings: MakeSettings) -> None:
    model = CLIPMapper(settings("x").model, ["yes", "no"])
    description = {"config": {k: v for k, v in vars(model.config).items() if k not in ("task", "tied", "tokens")}}
    checkpoint = {
        "clipmapper": {"format": 1, "model": description["config"], "answers": ["yes", "no"]}
        | {"clip_fingerprint": model.clip.fingerprint, "extra": {}},
        "state_dict": {f"model.{name}": value for name, value in model.trained_state().items()},
    }
    check_checkpoint(checkpoint, model, "old.ckpt")
    assert CLIPMapper._of_checkpoint(checkpoint, "old.ckpt").config.task == "vqa"


def test_floors_are_refused(caption: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        caption("run", "--run.floors=true")
    assert "run.floors acts with model.task vqa alone" in capsys.readouterr().err


def test_blind_to_text_is_refused(caption: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        caption("run", "--model.sees=image")
    assert "model.sees is 'image'" in capsys.readouterr().err


def test_evaluation(
    caption: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    which = shutil.which
    # Java would take seconds.
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "java" else which(name))
    settings = caption("run", "--trainer.max_epochs=1")
    go(settings)
    checkpoint = settings.run.dir / "checkpoints" / "last.ckpt"
    arguments = [f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", "--judge=shapes-vit-8:shapes"]
    evaluation.evaluate(parse_evaluation([*arguments, "--decoding.length=9", "--accelerator=cpu"], tmp_path))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["floors"].keys() == {"random caption", "constant caption"}
    for figures in (metrics["metrics"], *metrics["floors"].values()):
        assert all(
            isinstance(figures[name], float) for name in ("BLEU-4", "CIDEr", "ROUGE-L", "CLIPScore", "RefCLIPScore")
        )
        assert isinstance(figures["RefCLIPScore by shapes-vit-8:shapes"], float)
        assert figures["METEOR"] == figures["SPICE"] == "not computed: java is not installed"
    assert Image.open(tmp_path / "out" / "examples.png").width > 1000
    assert metrics["images"] == 9 and metrics["decoding"]["length"] == 9
    assert metrics["truth"].keys() == {"model", "random caption", "constant caption"}
    assert metrics["truth"]["random caption"]["readable"] == 100
    results = json.loads((tmp_path / "out" / "captions.json").read_text())
    held_out = load_captions(settings.data).val
    assert [entry["image_id"] for entry in results] == sorted(set(held_out["image_id"]))
    assert all(entry.keys() == {"image_id", "caption"} for entry in results)
    printed = capsys.readouterr().out
    assert re.search(r"CIDEr +\d+\.\d{4} +\d+\.\d{4} +\d+\.\d{4}", printed) and "not computed" in printed


def test_floors_by_hand() -> None:
    assert set(random_captions(["a", "b", "c"], 50)) == {"a", "b", "c"}
    references = [
        ["a red dog runs", "a dog"],
        ["a red cat runs", "a cat"],
        ["a red fish runs", "fish"],
        ["two trees", "x y"],
    ]
    assert best_constant(references).endswith("runs")


def test_all_of_clips_tokens_and_an_output_of_its_own(caption: MakeSettings) -> None:
    options = ("--model.tokens=all", "--model.tied=false", "--model.width=4", "--model.heads=1")
    task, data = task_and_data(caption("run", *options), load_captions(caption("run").data))
    assert task.model.head.output.weight.shape == (49408, 4) and task.model.tokens == []
    assert torch.isfinite(task.loss(data.train[[3]]))
    seen = seen_tokens(load_captions(caption("run").data).train, task.model.clip.tokenizer)
    assert set(seen) <= set(task.model.token_ids.tolist())


def test_the_figure_that_chooses_checkpoints_must_exist(settings: MakeSettings) -> None:
    """CIDEr of one image is 0 whatever is written."""
    one = settings("run", "--model.task=caption", "--run.captioned=1")
    with pytest.raises(ValueError, match=r"CIDEr .* at least two images.*the best checkpoint.* raise run\.captioned"):
        task_and_data(one, load_captions(one.data))


def test_a_validation_of_one_image_has_no_cider(caption: MakeSettings) -> None:
    options = ("--data.batch_size=1", "--trainer.limit_val_batches=1", "--trainer.limit_train_batches=2")
    settings = caption("run", "--trainer.max_epochs=1", *options)
    go(settings)
    assert all(math.isnan(value) for value in logged(settings.run.dir, "val/CIDEr").values())
    assert logged(settings.run.dir, "val/CIDEr") and (settings.run.dir / "checkpoints" / "best.ckpt").is_file()
