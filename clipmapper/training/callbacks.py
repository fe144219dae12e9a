"""Callbacks beside training: examples are logged, checkpoints written."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from clipmapper.data.batches import Data
from clipmapper.images import load_image
from clipmapper.logs import log_examples
from clipmapper.training.tasks import TrainedTask

AGREE_EVERY = 10  # batches


class ExampleLogger(Callback):
    """After each validation logs some held-out samples: image, what the model says of it, and what is right."""

    def __init__(self, count: int) -> None:
        self.count = count

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, TrainedTask)
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, Data)
        if not trainer.is_global_zero or trainer.sanity_checking or not trainer.loggers:
            return
        rows = torch.linspace(0, len(data.val) - 1, min(self.count, len(data.val))).long().tolist()
        batch = {name: value.to(task.device) for name, value in data.val[rows].items()}
        images = [load_image(data.val.source(row)) for row in batch["row"].tolist()]
        log_examples(trainer.loggers, "val/examples", images, task.examples(data.val, batch), trainer.global_step)


class LastCheckpoint(Checkpoint):
    """Writes `path` every so many steps, after each validation and at the end, so that a killed run can go on."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.step = 0  # that of the newest checkpoint

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        # Not on the last batch of an epoch: Lightning would leave out the validation that follows when it resumes there.
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if trainer.global_step == trainer.max_steps or (trainer.global_step % self.every == 0 and not last):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.step = 0  # also where a step's checkpoint is there: validation changes what callbacks know
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            trainer.save_checkpoint(self.path, weights_only=False)  # with optimizer and loops


class StopOnSignal(Callback):
    """Ends a run that is told to stop (Ctrl-C, SIGTERM of a scheduler) after its step, with a checkpoint to go on from.

    The exit code is 130 or 143, as of a process that the signal itself has ended. A second signal ends it at once.
    """

    def __init__(self, checkpoint: LastCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.signal = 0  # that came
        self.handlers: dict[int, Any] = {}  # as they were before

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self.handlers = {number: signal.signal(number, self.remember) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.restore()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not self.told(trainer, batch_idx):
            return
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:  # as LastCheckpoint does
            self.checkpoint.save(trainer)
            self.stop(trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *unused: Any
    ) -> None:
        if self.told(trainer, batch_idx):
            self.stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.told(trainer, 0):
            self.stop(trainer)

    def told(self, trainer: pl.Trainer, batch: int) -> bool:
        """Tells whether a process has been told to stop; several agree on it every few batches, which waits for all."""
        if trainer.world_size == 1:
            return self.signal != 0
        return batch % AGREE_EVERY == 0 and trainer.strategy.reduce_boolean_decision(self.signal != 0, all=False)

    def stop(self, trainer: pl.Trainer) -> NoReturn:
        name = signal.Signals(self.signal or signal.SIGTERM).name
        saved = f"with {self.checkpoint.path}" if self.checkpoint.path.is_file() else "before the first checkpoint"
        rank_zero_only(print)(
            f"\n{name}: stopped at step {trainer.global_step} {saved}; to go on: --run.resume last", flush=True
        )
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def restore(self) -> None:
        """Gives the signals their handlers back."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def teardown(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        self.restore()

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, error: BaseException) -> None:
        self.restore()
