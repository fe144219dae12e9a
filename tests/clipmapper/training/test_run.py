"""Runs of a tiny model on a tiny Shapes: the same seed, killed and resumed, in several processes."""

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipmapper.cli import Settings
from clipmapper.data.records import load_records
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.training.run import run, train
from clipmapper.training.tasks import VQATask

from ...commands import call, start

EPOCH = 8  # batches of 60 questions
MakeSettings = Callable[..., Settings]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in our code may catch it and tidy up."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each batch trained on, in order."""
    batches: list[list[int]] = []
    step = VQATask.training_step

    def watched(self: VQATask, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        batches.append(batch["row"].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VQATask, "training_step", watched)
    return batches


def go(settings: Settings) -> dict[str, Any]:
    """Trains, and gives the last checkpoint."""
    train(settings, load_records(settings.data))
    return last(settings.run.dir)


def last(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures of tensors and plain values are equal, bit for bit."""
    if isinstance(a, Tensor):
        return a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        # A bias of keys shifts all scores of a query alike: its gradient is rounding noise, which Adam makes large.
        part = slice(len(a[name]) // 2, None) if name.endswith("key_value.bias") else slice(None)
        assert torch.allclose(a[name][part], b[name][part], atol=1e-5), name


def logged(folder: Path, name: str) -> dict[int, float]:
    """step -> value over all CSV files of a run."""
    rows = [row for path in sorted(folder.rglob("metrics.csv")) for row in csv.DictReader(path.open())]
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def test_same_seed_same_weights(settings: MakeSettings) -> None:
    one, two = (go(settings(name, "--trainer.max_epochs=1")) for name in ("one", "two"))
    other = go(settings("other", "--trainer.max_epochs=1", "--run.seed=1"))
    assert one["global_step"] == EPOCH
    assert same(one["state_dict"], two["state_dict"]) and same(one["optimizer_states"], two["optimizer_states"])
    assert not same(one["state_dict"], other["state_dict"])


def test_each_epoch_has_each_question_once_in_another_order(settings: MakeSettings, seen: list[list[int]]) -> None:
    go(settings("run"))
    first, second = ([row for batch in part for row in batch] for part in (seen[:EPOCH], seen[EPOCH:]))
    assert sorted(first) == sorted(second) == list(range(60)) and first != second


def test_logs_and_examples(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("run", "--run.examples=2"))
    folder = tmp_path / "run"
    assert len(logged(folder, "train/loss")) == 2 * EPOCH
    # 3 steps of warm-up, constant until step 6, cosine to 0 at step 16; the rate logged is that of the step to come
    rates = logged(folder, "lr")
    expected = {0: 1 / 3, 1: 2 / 3, 2: 1.0, 5: 1.0, 6: 1.0, 11: 0.5}
    assert {step: rates[step] / 3e-3 for step in expected} == pytest.approx(expected)
    for name in ("val/accuracy", "val/accuracy/yes/no", "val/accuracy/number", "val/accuracy/other", "val/loss"):
        values = logged(folder, name)
        assert list(values) == [EPOCH - 1, 2 * EPOCH - 1], name
    assert all(0 <= value <= 100 for value in logged(folder, "val/accuracy").values())
    assert set(logged(folder, "val/skipped").values()) == set(logged(folder, "train/skipped").values()) == {0.0}
    assert len(list(folder.rglob("examples/val/examples/00000016/*.png"))) == 2


def interrupted(settings: MakeSettings, name: str, monkeypatch: pytest.MonkeyPatch, when: int, *options: str) -> None:
    """A run that dies at the start of the `when`-th batch (counted over epochs, from 0)."""
    start = VQATask.on_train_batch_start

    def dying(self: VQATask, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.trainer.current_epoch * EPOCH + batch_idx == when:
            raise Killed
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VQATask, "on_train_batch_start", dying)
        go(settings(name, *options))


@pytest.mark.parametrize(
    ("killed", "resumed", "options"),
    [
        (4, 3, ("--run.examples=2",)),  # in mid-epoch, after the checkpoint of step 3
        (8, 8, ()),  # after the validation of the first epoch
        (14, 12, ("--data.workers=1",)),
        (8, 8, ("--run.checkpoint_every=8",)),  # a step's checkpoint falls on the end of an epoch
        (6, 4, ("--trainer.val_check_interval=4", "--run.checkpoint_every=100")),
        (11, 10, ("--trainer.accumulate_grad_batches=2", "--run.checkpoint_every=1", "--optimizer.decay_from=3")),
        (5, 3, ("--trainer.max_epochs=-1", "--trainer.max_steps=12")),
        (11, 9, ("--trainer.max_epochs=-1", "--trainer.max_steps=12")),
        (8, 8, ("--run.patience=5",)),
        (7, 6, ("--model.mapper=a", "--data.cache=null")),
    ],
)
def test_killed_and_resumed_is_as_if_never_interrupted(
    settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[list[int]],
    tmp_path: Path,
    killed: int,
    resumed: int,
    options: tuple[str, ...],
) -> None:
    whole = go(settings("whole", *options))
    rows = seen.copy()
    seen.clear()
    interrupted(settings, "cut", monkeypatch, killed, *options)
    assert seen == rows[:killed]
    seen.clear()
    cut = go(settings("cut", "--run.resume=last", *options))
    assert seen == rows[resumed:], "each batch is trained on once, from the checkpoint on"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(cut[part], whole[part]), part
    for name in ("val/accuracy", "val/loss"):
        assert logged(tmp_path / "cut", name) == logged(tmp_path / "whole", name)


def test_killed_in_validation_is_validated_after_all(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, seen: list[list[int]], tmp_path: Path
) -> None:
    whole = go(settings("whole"))
    seen.clear()

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VQATask, "validation_step", die)
        go(settings("cut", "--run.checkpoint_every=2"))
    seen.clear()
    cut = go(settings("cut", "--run.resume=last", "--run.checkpoint_every=2"))
    assert len(seen) == 2 * EPOCH - 6, "the checkpoint of step 8 would have left out the validation"
    assert same(cut["state_dict"], whole["state_dict"])
    assert logged(tmp_path / "cut", "val/accuracy") == logged(tmp_path / "whole", "val/accuracy")


def test_no_checkpoint_is_written_between_accumulated_batches(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, seen: list[list[int]]
) -> None:
    options = ("--trainer.accumulate_grad_batches=2", "--run.checkpoint_every=1")
    interrupted(settings, "cut", monkeypatch, 3, *options)
    seen.clear()
    interrupted(settings, "cut", monkeypatch, 3, "--run.resume=last", *options)
    interrupted(settings, "cut", monkeypatch, 3, "--run.resume=last", *options)
    assert len(seen) == 2 and seen[0] == seen[1], "both times the first half of the second step"


def test_finished_run_can_be_made_longer(settings: MakeSettings, seen: list[list[int]]) -> None:
    options = ("--trainer.max_epochs=-1", "--optimizer.decay_from=100")
    whole = go(settings("whole", "--trainer.max_steps=13", *options))
    rows = seen.copy()
    seen.clear()
    go(settings("longer", "--trainer.max_steps=5", *options))
    longer = go(settings("longer", "--trainer.max_steps=13", "--run.resume=last", *options))
    assert seen == rows and same(longer["state_dict"], whole["state_dict"])


def test_resuming_a_finished_run_changes_nothing(settings: MakeSettings, seen: list[list[int]]) -> None:
    whole = go(settings("run", "--trainer.max_epochs=1"))
    seen.clear()
    again = go(settings("run", "--trainer.max_epochs=1", "--run.resume=last"))
    assert seen == [] and same(again["state_dict"], whole["state_dict"])


def test_accumulated_gradients_are_those_of_a_larger_batch(settings: MakeSettings) -> None:
    options = ("--model.dropout=0", "--trainer.max_epochs=-1", "--trainer.max_steps=3")
    large = go(settings("large", "--data.batch_size=16", *options))
    small = go(settings("small", "--trainer.accumulate_grad_batches=2", *options))
    assert_close(small["state_dict"], large["state_dict"])


def test_early_stop(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([50.0, 60.0, 55.0, 58.0, 70.0])
    monkeypatch.setattr(
        "clipmapper.metrics.answers.VQAAccuracy.compute", lambda self: {"overall": torch.tensor(next(values))}
    )
    stopped = go(settings("run", "--trainer.max_epochs=9", "--run.patience=2"))
    assert stopped["global_step"] == 4 * EPOCH, "two validations without a better one"
    best = read_checkpoint(settings("run").run.dir / "checkpoints" / "best.ckpt")
    assert best["global_step"] == 2 * EPOCH


def test_floors_are_trained_beside_the_run_and_resumed_with_it(
    settings: MakeSettings, seen: list[list[int]], tmp_path: Path
) -> None:
    options = ("--trainer.max_epochs=1", f"--trainer.val_check_interval={EPOCH}", "--run.floors=true")
    run(settings("run", *options))
    assert len(seen) == 3 * EPOCH and seen[:EPOCH] == seen[EPOCH : 2 * EPOCH] == seen[2 * EPOCH :]
    for name, sees in (("question_only", "question"), ("image_only", "image")):
        floor = last(tmp_path / "run" / "floors" / name)
        assert floor["clipmapper"]["model"]["sees"] == sees and floor["global_step"] == EPOCH
    assert last(tmp_path / "run")["clipmapper"]["model"]["sees"] == "both"
    (tmp_path / "run" / "floors" / "image_only" / "checkpoints" / "last.ckpt").unlink()
    seen.clear()
    run(settings("run", "--run.resume=last", *options))
    assert len(seen) == EPOCH, "only the floor without a checkpoint starts anew"


@pytest.mark.parametrize(("number", "code", "batch"), [(signal.SIGTERM, 143, 3), (signal.SIGINT, 130, EPOCH - 1)])
def test_a_run_that_is_told_to_stop_saves_and_says_how_to_go_on(
    settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    batch: int,
) -> None:
    whole, handlers = go(settings("whole")), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    step = VQATask.training_step

    def told(self: VQATask, samples: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == batch:
            os.kill(os.getpid(), number)
        return step(self, samples, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(VQATask, "training_step", told)
        with pytest.raises(SystemExit) as left:
            go(settings("cut", "--run.checkpoint_every=100"))
    assert left.value.code == code and "--run.resume last" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    if batch < EPOCH - 1:  # else the last batch of the epoch: its validation comes first, and is cut
        assert last(settings("cut").run.dir)["global_step"] == batch + 1
    cut = go(settings("cut", "--run.resume=auto"))
    assert same(cut["state_dict"], whole["state_dict"]) and same(cut["optimizer_states"], whole["optimizer_states"])


def test_another_recipe_does_not_go_on(settings: MakeSettings) -> None:
    go(settings("run", "--trainer.max_epochs=1"))
    for name, value in (("optimizer.lr", "3"), ("run.seed", "5"), ("optimizer.name", "muon")):
        with pytest.raises(
            ValueError, match=rf"last\.ckpt was trained with {name} .*; here it is {value}.*\. Leave it out"
        ):
            go(settings("run", "--run.resume=last", f"--{name}={value}"))


@pytest.mark.slow
def test_sigkill_in_mid_epoch_and_resume(tiny_config: Path, tmp_path: Path) -> None:
    """The same over real processes, killed at an unknown moment after the first checkpoint."""
    options = (f"--config={tiny_config}", "--data.batch_size=2", "--run.checkpoint_every=7")
    whole = start(tmp_path, "train.py", *options, "--run.dir=whole")
    cut = start(tmp_path, "train.py", *options, "--run.dir=cut")
    cut.kill_when(tmp_path / "cut" / "checkpoints", "last.ckpt")
    step = last(tmp_path / "cut")["global_step"]
    assert step < 60 and step % 30 != 0, "the run was killed in mid-epoch"
    call(tmp_path, "train.py", *options, "--run.dir=cut", "--run.resume=last")
    assert whole.wait() == 0, whole.printed
    cut_end, whole_end = last(tmp_path / "cut"), last(tmp_path / "whole")
    for name in ("state_dict", "optimizer_states"):
        assert same(cut_end[name], whole_end[name]), name
    for name in ("val/accuracy", "val/loss"):
        assert logged(tmp_path / "cut", name) == logged(tmp_path / "whole", name)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tiny_config: Path, tmp_path: Path) -> None:
    """With 27 held-out questions and 2 x 13 a batch one process validates on one batch more than the other."""
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=13")
    for name, own in (("one", ("--data.batch_size=26",)), ("two", two)):
        call(tmp_path, "train.py", f"--config={tiny_config}", "--model.dropout=0", f"--run.dir={name}", *own)
    one, both = last(tmp_path / "one"), last(tmp_path / "two")
    assert one["global_step"] == both["global_step"] == 6
    assert_close(both["state_dict"], one["state_dict"])
    for name in ("val/accuracy", "val/accuracy/other", "val/accuracy/number", "val/accuracy/yes/no", "val/loss"):
        assert logged(tmp_path / "two", name) == pytest.approx(logged(tmp_path / "one", name), rel=1e-5), name
