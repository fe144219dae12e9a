"""One training run: data, model, loggers, checkpoints; and the blind models that give its floors."""

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger

from clipmapper.callbacks import ExampleLogger, LastCheckpoint
from clipmapper.checkpoints import FileCheckpointIO, read_checkpoint
from clipmapper.cli import Settings
from clipmapper.config import RunConfig, Sees
from clipmapper.data.official import BadData, MissingData
from clipmapper.data.records import Records, load_records
from clipmapper.data.vqa import VQAData
from clipmapper.logs import make_loggers
from clipmapper.model import CLIPMapper
from clipmapper.tasks import VQATask, check_checkpoint

# Folder of the floor's run -> what its model sees.
FLOORS: dict[str, Sees] = {"question_only": "question", "image_only": "image"}


# Advice of Lightning's that does not hold here: CLIP stays in eval mode, our batches do resume within an epoch.
NEEDLESS = (
    r"Found \d+ module\(s\) in eval mode",
    ".*your dataloader is not resumable",
    "Checkpoint directory .* not empty",
    r".*isinstance\(treespec, LeafSpec\)",
)


def run(settings: Settings) -> None:
    """Trains the model of the settings, then, if asked for, its floors. Leaves with a message on bad input."""
    for message in NEEDLESS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    try:
        records = load_records(settings.data)
        train(settings, records)
        if settings.run.floors:
            for name, sees in FLOORS.items():
                folder, resume = settings.run.dir / "floors" / name, settings.run.resume and "auto"
                floor_run = replace(settings.run, dir=folder, examples=0, name=None, resume=resume)
                print(f"floor: the same model, which sees {sees} only", flush=True)
                train(replace(settings, model=replace(settings.model, sees=sees), run=floor_run), records)
    except (MissingData, BadData, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def train(settings: Settings, records: Records) -> None:
    """One model from its first step, or from a checkpoint, to its last."""
    config = settings.run
    resume = resume_from(config)
    pl.seed_everything(config.seed)
    model = CLIPMapper(settings.model, list(records.vocabulary.answers))
    if resume is not None:
        check_checkpoint(read_checkpoint(resume), model, str(resume))
    data = VQAData(records, settings.data, model.clip, config.seed)
    task = VQATask(model, settings.optimizer, config.seed, extra={"data": settings.plain["data"]})
    loggers = make_loggers(config.loggers, config.dir, "clipmapper", config.name or config.dir.name, settings.plain)
    trainer = pl.Trainer(
        **settings.trainer,
        logger=loggers,
        callbacks=callbacks(config, loggers),
        default_root_dir=config.dir,
        use_distributed_sampler=False,  # our batches know their process
        plugins=[FileCheckpointIO()],
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    report(data)


def callbacks(config: RunConfig, loggers: list[Logger]) -> list[Callback]:
    """Best and last checkpoint, progress, and what was asked for."""
    folder = checkpoint_dir(config)
    chosen: list[Callback] = [
        ModelCheckpoint(
            folder,
            "best",
            monitor="val/accuracy",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # where Lightning could not go on from
        ),
        LastCheckpoint(folder / "last.ckpt", config.checkpoint_every),
        TQDMProgressBar(refresh_rate=10),
    ]
    if loggers:
        chosen.append(LearningRateMonitor("step"))
    if config.patience is not None:
        chosen.append(
            EarlyStopping("val/accuracy", patience=config.patience, mode="max", check_on_train_epoch_end=False)
        )
    if config.examples:
        chosen.append(ExampleLogger(config.examples))
    return chosen


def checkpoint_dir(config: RunConfig) -> Path:
    return config.dir / "checkpoints"


def resume_from(config: RunConfig) -> Path | None:
    """The checkpoint to start from. Raises FileExistsError or FileNotFoundError with what to do instead."""
    last = checkpoint_dir(config) / "last.ckpt"
    if config.resume is None:
        if any(checkpoint_dir(config).glob("*.ckpt")):
            raise FileExistsError(
                f"{config.dir} holds a run already: continue it with --run.resume last, "
                "choose another --run.dir, or remove it"
            )
        return None
    if config.resume == "auto" and not last.is_file():
        return None
    path = last if config.resume in ("last", "auto") else Path(config.resume)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint {path} to resume from: name a file, or leave --run.resume out to start anew"
        )
    return path


def report(data: VQAData) -> None:
    """Says which questions were left out, and why."""
    for name, questions in (("train", data.train), ("val", data.val)):
        for reason, count in questions.skipped().items():
            if count:
                example = next(iter(questions.unreadable.values()), "")
                print(f"{name}: {count} questions left out: {reason}. {example}")
