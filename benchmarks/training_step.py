"""An epoch of `train.py`'s Trainer against a bare loop over the same model, batches, optimizer and dropout.

Both train mapper B on cached tokens of the CLIP that ships. The Trainer has what a run has by default but Weights & Biases:
CSV log, progress bar, checkpoints, learning-rate monitor. Timed from the first batch to the end of the epoch, without
validation, which the loop has not.
"""

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from datasets import disable_progress_bars

from benchmarks.entry import Entry, cost
from benchmarks.machine import DEVICE, synchronise
from clipmapper.cli import Settings
from clipmapper.config import (
    DataConfig,
    ExplainConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ShapesConfig,
    TrainerConfig,
)
from clipmapper.data.batches import Batches, loader, mixed
from clipmapper.data.records import Records, load_records
from clipmapper.data.shapes.write import write_shapes
from clipmapper.logs import make_loggers, quiet_lightning
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.optimizer import make_optimizer, rate
from clipmapper.training.run import callbacks, task_and_data
from clipmapper.training.tasks import VQATask

OPTIMIZER = OptimizerConfig(warmup_steps=10, decay_from=10_000)


def settings_of(root: Path, features: Path, quick: bool) -> Settings:
    """The settings of a run on Shapes, as the command line of `train.py` would give them."""
    model = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", width=16 if quick else None, heads=4)
    data = DataConfig(root=root, cache=features, workers=0, batch_size=16 if quick else 64, held_out=10)
    run = RunConfig(loggers=["csv"], examples=0)
    plain: dict[str, Any] = {"data": asdict(data), "optimizer": asdict(OPTIMIZER)}
    return Settings(model, data, OPTIMIZER, run, ExplainConfig(), TrainerConfig(), plain)


class Stopwatch(pl.Callback):
    """Seconds of the epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        synchronise()
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        synchronise()
        self.seconds = time.perf_counter() - self.start


def run(quick: bool) -> list[Entry]:
    disable_progress_bars()
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder) / "shapes"
        write_shapes(root, ShapesConfig(train=20 if quick else 400, val=5, test=0, questions=5))
        settings = settings_of(root, Path(folder) / "features", quick)
        records = load_records(settings.data)
        return [_compared(settings, records, Path(folder), 1 if quick else 3)]


def _compared(settings: Settings, records: Records, folder: Path, rounds: int) -> Entry:
    times: dict[str, list[float]] = {"trainer": [], "loop": []}
    for number in range(rounds + 1):  # in turn; the first round fills the cache and does not count
        trained, seconds = trainer_epoch(settings, records, folder / f"run{number}")
        model, bare, steps = bare_epoch(settings, records)
        if number:
            times["trainer"].append(seconds)
            times["loop"].append(bare)
    own, others = trained.cpu().trained_state(), model.cpu().trained_state()
    differs = max(float((own[name] - others[name]).abs().max()) for name in own)
    note = (
        f"{median(times['trainer']) / steps * 1000:.1f} ms a step; weights differ by {differs:.1g} after {steps} steps"
    )
    what = "Trainer's epoch / a bare loop of the same steps"
    return cost(what, times, "trainer", "loop", 1.05, note=note, extra={"largest difference of a weight": differs})


def trainer_epoch(settings: Settings, records: Records, folder: Path) -> tuple[CLIPMapper, float]:
    """The model after an epoch, and the seconds of that epoch."""
    pl.seed_everything(0, verbose=False)
    task, data = task_and_data(settings, records)
    settings.run.dir, watch = folder, Stopwatch()
    loggers = make_loggers(["csv"], folder, "benchmarks", folder.name, settings.plain)
    trainer = pl.Trainer(
        accelerator=DEVICE.type,
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=loggers,
        callbacks=[*callbacks(settings.run, task.monitor, loggers), watch],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer.fit(task, data)
    return task.model, watch.seconds


def bare_epoch(settings: Settings, records: Records) -> tuple[CLIPMapper, float, int]:
    """The same by hand: the model, the seconds, and how many steps there were."""
    pl.seed_everything(0, verbose=False)
    task, data = task_and_data(settings, records)
    assert isinstance(task, VQATask)
    task.to(DEVICE)
    data.train.encode_once(task.model.clip, settings.data)
    batches = loader(data.train, Batches(len(data.train), settings.data.batch_size, seed=0), settings.data.workers)
    model = task.model.train()
    optimizer = make_optimizer(model, OPTIMIZER)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, OPTIMIZER, len(batches)))
    synchronise()
    start = time.perf_counter()  # as the Trainer's epoch, with the start of the loader
    for batch in _seeded(batches):
        batch = {name: value.to(DEVICE, non_blocking=True) for name, value in batch.items()}
        optimizer.zero_grad()
        task.loss(batch).backward()
        optimizer.step()
        schedule.step()
    synchronise()
    return model, time.perf_counter() - start, len(batches)


def _seeded(batches: Any) -> Iterator[Any]:
    """Batches, with the random numbers of dropout as the task has them."""
    for step, batch in enumerate(batches):
        torch.manual_seed(mixed(0, step, step, 0))
        yield batch
