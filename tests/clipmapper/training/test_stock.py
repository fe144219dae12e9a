"""Runs of models of transformers' own classes: what is logged and saved, and that a killed run goes on to the same numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from clipmapper import CLIPMapper
from clipmapper.cli import Settings
from clipmapper.config import DataConfig
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.training.run import load_dialogues, task_and_data, train
from clipmapper.training.stock import StockTask

from .test_run import Killed, logged, same

EPOCH = 5  # batches of 20 images
MakeSettings = Callable[..., Settings]


@pytest.fixture
def stock(settings: MakeSettings) -> MakeSettings:
    options = ("--data.batch_size=4", "--run.captioned=4", "--model.layers=1")

    def make(kind: str, name: str, *more: str) -> Settings:
        cache = (f"--data.cache={DataConfig.cache}",) if kind == "blip" else ()  # which it has no use for
        return settings(name, f"--model.kind={kind}", *options, *cache, *more)

    return make


def go(settings: Settings) -> dict[str, Any]:
    train(settings, load_dialogues(settings.data))
    return read_checkpoint(settings.run.dir / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("kind", ["llava", "blip"])
def test_every_trained_weight_gets_a_gradient_and_no_other(stock: MakeSettings, kind: str) -> None:
    settings = stock(kind, "run")
    task, data = task_and_data(settings, load_dialogues(settings.data))
    task.loss(data.train[[0, 7]]).backward()
    unread = {"post_layernorm"} if kind == "llava" else set()
    for name, parameter in task.model.named_parameters():
        if not unread & {*name.split(".")}:
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.requires_grad == (kind == "blip" or "vision_tower" not in name)
    assert any("vision" in name for name in task.model.trained_state()) == (kind == "blip")


def test_the_loss_is_the_mean_over_texts_of_the_mean_over_tokens(stock: MakeSettings) -> None:
    settings = stock("llava", "run", "--model.dropout=0")
    task, data = task_and_data(settings, load_dialogues(settings.data))
    assert isinstance(task, StockTask)
    batch = data.train[[3]]
    whole, texts = task.token_loss(batch)
    assert texts.item() == pytest.approx(len(data.train.asked(3)) + len(data.train.references(3)))
    ends = (batch["targets"] == task.model.tokenizer.eos_token_id).nonzero()[:, 0].tolist()
    losses, start = [], 0
    for stop in ends:
        part = {name: batch[name][start : stop + 1] for name in ("following", "targets", "weights")}
        losses.append(task.token_loss({**batch, **part})[0])
        start = stop + 1
    assert whole.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["llava", "blip"])
def test_a_killed_run_goes_on_to_the_same_numbers_and_a_folder(
    stock: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    whole = go(stock(kind, "whole", "--run.examples=1"))
    for name in ("val/loss", "val/accuracy", "val/CIDEr", "val/BLEU-4"):
        assert list(logged(tmp_path / "whole", name)) == [EPOCH - 1, 2 * EPOCH - 1], name
    losses = logged(tmp_path / "whole", "train/loss")
    assert losses[2 * EPOCH - 1] < losses[0]
    start = StockTask.on_train_batch_start

    def dying(self: StockTask, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.global_step == 7:
            raise Killed
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StockTask, "on_train_batch_start", dying)
        go(stock(kind, "cut"))
    assert not (tmp_path / "cut" / "model").exists()
    cut = go(stock(kind, "cut", "--run.resume=last"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(cut[part], whole[part]), part
    for name in ("val/accuracy", "val/loss", "val/CIDEr"):
        assert logged(tmp_path / "cut", name) == logged(tmp_path / "whole", name)
    best = read_checkpoint(tmp_path / "cut" / "checkpoints" / "best.ckpt")["state_dict"]
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "cut" / "model").state_dict()
    trained = {name.removeprefix("model.model."): value for name, value in best.items()}
    assert trained.keys() <= loaded.keys() and all(value.equal(loaded[name]) for name, value in trained.items())
    assert type(AutoProcessor.from_pretrained(tmp_path / "cut" / "model")).__name__.lower() == f"{kind}processor"
    with pytest.raises(ValueError, match=rf"last\.ckpt is of a {kind}, not of a mapper; load the folder `model`"):
        CLIPMapper.from_pretrained(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    if kind == "blip":
        with pytest.raises(ValueError, match=r"last\.ckpt: model\.kind is 'blip' there and 'llava' here"):
            go(stock("llava", "cut", "--run.resume=last"))


def test_validation_scores_answers_by_the_official_accuracy(
    stock: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever always says the answer of every second question, and an annotator's caption of each image."""
    settings = stock("llava", "run", "--trainer.max_epochs=1")
    _, data = task_and_data(settings, load_dialogues(settings.data))
    truth = {q: a[0].upper() for row in range(9) for q, a in data.val.asked(row)}
    rights = {question: i % 2 == 0 for i, question in enumerate(sorted(truth))}

    def write(self: Any, image: Tensor, of: list[int], questions: list[str | None]) -> list[str]:
        return ["A circle." if q is None else truth[q].lower() if rights[q] else "wrong" for q in questions]

    monkeypatch.setattr("clipmapper.models.stock.base.StockModel.write", write)
    go(settings)
    asked = [q for row in data.val_rows() for q, _ in data.val.asked(row)]
    same_text = [truth[q].lower() == a[0] for row in data.val_rows() for q, a in data.val.asked(row)]
    expected = 100 * sum(rights[q] and equal for q, equal in zip(asked, same_text, strict=True)) / len(asked)
    assert logged(tmp_path / "run", "val/accuracy")[EPOCH - 1] == pytest.approx(expected)


@pytest.mark.parametrize(
    "option",
    [
        *("model.mapper=a", "model.task=caption", "model.sees=question", "model.read=text", "model.tokens=seen"),
        *("data.min_count=3", "run.floors=true", "run.compile=true", "explain.every=1"),
    ],
)
def test_options_of_mappers_are_refused(stock: MakeSettings, capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit):
        stock("llava", "run", f"--{option}")
    assert re.search(
        rf"{option.partition('=')[0]} acts with model\.\w+ \w+ alone; leave it out", capsys.readouterr().err
    )
