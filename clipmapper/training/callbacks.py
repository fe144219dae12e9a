"""What happens beside training: examples are logged, checkpoints written."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from clipmapper.data.batches import Data
from clipmapper.images import load_image
from clipmapper.logs import log_examples
from clipmapper.training.tasks import CaptionTask, VQATask


class ExampleLogger(Callback):
    """After each validation logs some held-out samples: image, what the model says of it, and what is right."""

    def __init__(self, count: int) -> None:
        self.count = count

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, VQATask | CaptionTask)
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
