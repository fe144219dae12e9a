"""One training run: data, model, loggers, checkpoints; and the blind models that are its baselines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from filelock import FileLock
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from clipmapper.cli import Settings
from clipmapper.config import DataConfig, ExplainConfig, RunConfig, Sees, TrainerConfig
from clipmapper.data.batches import Data
from clipmapper.data.captions import CaptionData, seen_tokens
from clipmapper.data.records import CaptionRecords, Records, load_captions, load_records
from clipmapper.data.vqa import VQAData
from clipmapper.errors import messages
from clipmapper.logs import finish, log_files, make_loggers, quiet_lightning
from clipmapper.metrics.captions import check_cider
from clipmapper.models.checkpoints import check_checkpoint, described, read_checkpoint
from clipmapper.models.clip import clip_tokenizer
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import launched, places
from clipmapper.training.callbacks import ExampleLogger, LastCheckpoint, StopOnSignal
from clipmapper.training.checkpoints import FileCheckpointIO
from clipmapper.training.compilation import CompiledSteps
from clipmapper.training.tasks import CaptionTask, TrainedTask, VQATask

T = TypeVar("T")
Dialogues = tuple[Records, CaptionRecords]  # about the same images

# Folder of the baseline's run -> the modality that its model sees.
BASELINES: dict[str, Sees] = {"question_only": "question", "image_only": "image"}


def run(settings: Settings) -> None:
    """Trains the model of the settings, then, if asked for, its baselines. Leaves with a message on bad input."""
    quiet_lightning()
    with messages(settings.run.dir):
        if settings.model.kind != "mapper":
            train(settings, one_by_one(settings, load_dialogues))
            return
        if settings.model.task == "caption":
            train(settings, one_by_one(settings, load_captions))
            return
        records = one_by_one(settings, load_records)
        train(settings, records)
        if settings.run.floors:
            for name, sees in BASELINES.items():
                say(f"baseline: the same model, which sees {sees} only")
                train(blind(settings, name, sees), records, settings.run.name or settings.run.dir.name)


def load_dialogues(config: DataConfig) -> Dialogues:
    """Questions and captions of the same images."""
    return load_records(config), load_captions(config)


def one_by_one(settings: Settings, load: Callable[[DataConfig], T]) -> T:
    """Returns the data that `load` makes. Of processes launched at once the first makes the files, which the others find."""
    if launched().size == 1:
        return load(settings.data)
    settings.run.dir.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.run.dir / ".data.lock"):
        return load(settings.data)


def blind(settings: Settings, name: str, sees: Sees) -> Settings:
    """Returns a baseline's settings: the same recipe, validated four times as often until that gains less than a point."""
    config = replace(
        settings.run, dir=settings.run.dir / "floors" / name, name=None, examples=0, patience=1, min_gain=1.0
    )
    config.resume = settings.run.resume and "auto"
    interval = settings.trainer.val_check_interval
    interval = 1.0 if interval is None else interval
    trainer = replace(settings.trainer, val_check_interval=interval / 4 if isinstance(interval, float) else interval)
    model = replace(settings.model, sees=sees)
    return replace(settings, model=model, run=config, trainer=trainer, explain=ExplainConfig())


def train(settings: Settings, records: Records | CaptionRecords | Dialogues, group: str | None = None) -> None:
    """Trains one model from its first step, or from a checkpoint, to its last; `group` names the run it is a baseline of."""
    config = settings.run
    resume = resume_from(config)
    pl.seed_everything(config.seed)
    task, data = task_and_data(settings, records)
    step = None
    if resume is not None:
        checkpoint = read_checkpoint(resume)
        step = checkpoint.get("global_step")
        check_checkpoint(checkpoint, task.model, str(resume))
        check_recipe(checkpoint, task.extra, str(resume))
    name = config.name or config.dir.name
    job = "train" if group is None else "baseline"
    loggers = make_loggers(config.loggers, config.dir, "clipmapper", name, settings.plain, step, job, group)
    trainer = pl.Trainer(
        **vars(as_launched(settings.trainer)),
        logger=loggers,
        callbacks=[*callbacks(config, task.monitor, loggers), *progress(settings.trainer), *explaining(settings)],
        default_root_dir=config.dir,
        use_distributed_sampler=False,  # our batches know their process
        plugins=[FileCheckpointIO()],
    )
    try:
        trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    except BaseException:  # whatever it was: a run that goes on in this process needs what W&B holds of this one
        finish(loggers, failed=True)
        raise
    report(data)
    best = checkpoint_dir(config) / "best.ckpt"
    if best.is_file():  # not after a trial run
        facts = best_of(best, trainer.checkpoint_callbacks[0], task.monitor)
        exported = save_best(task, best, config) if group is None else []
        log_models(loggers, config, exported, facts)
        finish(loggers, {f"best/{key}": value for key, value in facts.items()})
    else:
        finish(loggers)


def best_of(path: Path, checkpoints: Any, monitor: str) -> dict[str, float]:
    """The step of the best checkpoint, and the figure it was chosen by."""
    score = checkpoints.best_model_score
    return {"step": read_checkpoint(path)["global_step"]} | ({} if score is None else {monitor: float(score)})


@rank_zero_only
def log_models(loggers: list[Logger], config: RunConfig, exported: list[Path] | None, best: dict[str, float]) -> None:
    """Logs the last and the best checkpoint as versions of one artifact, and the model for use without training."""
    last = checkpoint_dir(config) / "last.ckpt"
    for path, facts in (  # in this order: the newest version is the best
        (last, {"step": read_checkpoint(last)["global_step"]}),
        (checkpoint_dir(config) / "best.ckpt", best),
    ):
        log_files(loggers, "model", "model", [path], [path.stem], facts)
    log_files(loggers, "mapper", "model", exported or [], ["best"], best)  # other processes have exported nothing


@rank_zero_only
def save_best(task: TrainedTask, best: Path, config: RunConfig) -> list[Path]:
    """Writes the model of the best checkpoint into a folder, for from_pretrained: ours of a mapper, else transformers'."""
    folder = config.dir / "model"
    task.load_state_dict(read_checkpoint(best)["state_dict"], strict=False)  # the tower is there
    (folder / "README.md").unlink(missing_ok=True)  # a card of the same run before it went on
    task.model.save_pretrained(folder)
    how = "clipmapper.CLIPMapper.from_pretrained" if isinstance(task.model, CLIPMapper) else "transformers"
    print(f"model: {folder}   for {how}; what a stock model writes is explained by xai.explain_generated", flush=True)
    return sorted(path for path in folder.iterdir() if path.is_file())


def check_recipe(checkpoint: dict[str, Any], extra: dict[str, Any], source: str) -> None:
    """Refuses to go on with another recipe: optimizer and order of the data are those of the checkpoint.

    Raises:
        ValueError: names the first setting that differs, with both values.
    """
    saved = described(checkpoint, source)["extra"]
    then, now = (
        {
            **{f"optimizer.{name}": value for name, value in each.get("optimizer", {}).items()},
            "data.held_out": each.get("data", {}).get("held_out"),
            "run.seed": each.get("seed"),
        }
        for each in (saved, extra)
    )
    for name, value in now.items():
        if then.get(name) is not None and then[name] != value:
            raise ValueError(
                f"{source} was trained with {name} {then[name]}, which a run that goes on keeps; here it is {value}. "
                "Leave it out, or start anew in another --run.dir"
            )


def as_launched(config: TrainerConfig) -> TrainerConfig:
    """Returns the settings with devices and machines as torchrun or srun started processes, unless they are given."""
    there = places()
    if there is None or config.devices != "auto" or config.num_nodes != 1:
        return config
    return replace(config, devices=there[0], num_nodes=there[1])


def task_and_data(settings: Settings, records: Records | CaptionRecords | Dialogues) -> tuple[TrainedTask, Data]:
    """A new model in its task, and what it is trained and validated on."""
    seed = settings.run.seed
    extra = {"data": settings.plain["data"], "optimizer": settings.plain["optimizer"], "seed": seed}
    if isinstance(records, tuple):
        return stock_task(settings, *records, extra)
    if isinstance(records, Records):
        model = CLIPMapper(settings.model, records.vocabulary.answers)
        data = VQAData(records, settings.data, model.clip, seed)
        return VQATask(model, settings.optimizer, seed, extra), data
    seen = settings.model.tokens == "seen"
    tokens = seen_tokens(records.train, clip_tokenizer(settings.model.clip)) if seen else ()
    model = CLIPMapper(settings.model, tokens=tokens)
    captions = CaptionData(records, settings.data, model.clip, seed, settings.run.captioned)
    val = captions.val
    try:
        check_cider([val.references(row) for row in val.rows[val.one_each(settings.run.captioned)]])
    except ValueError as error:
        raise ValueError(
            f"{error}; the best checkpoint is chosen by it: hold out more images, or raise run.captioned"
        ) from error
    return CaptionTask(model, settings.optimizer, seed, extra), captions


def stock_task(
    settings: Settings, questions: Records, captions: CaptionRecords, extra: dict[str, Any]
) -> tuple[TrainedTask, Data]:
    """The same of a model of transformers' own classes."""
    # here: transformers is slow to import, and mappers need none of it
    from clipmapper.data.dialogues import DialogueData, all_texts
    from clipmapper.models.stock.base import vocabulary_of
    from clipmapper.models.stock.kinds import STOCK
    from clipmapper.training.stock import StockTask

    kind, seed = STOCK[settings.model.kind], settings.run.seed
    vocabulary = vocabulary_of(kind.spoken(*pair) for pair in all_texts(questions.train, captions.train))
    model = kind(settings.model, vocabulary)
    config = settings.data if kind.frozen else replace(settings.data, cache=None)
    data = DialogueData(questions, captions, config, model, seed, settings.run.captioned)
    return StockTask(model, settings.optimizer, seed, extra), data


def callbacks(config: RunConfig, monitor: str, loggers: list[Logger]) -> list[Callback]:
    """Best and last checkpoint, and what was asked for."""
    folder = checkpoint_dir(config)
    last = LastCheckpoint(folder / "last.ckpt", config.checkpoint_every)
    chosen: list[Callback] = [
        ModelCheckpoint(
            folder,
            "best",
            monitor=monitor,
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # where Lightning could not go on from
        ),
        last,
        StopOnSignal(last),
    ]
    if loggers:
        chosen.append(LearningRateMonitor("step"))
    if config.patience is not None:
        chosen.append(
            EarlyStopping(
                monitor,
                min_delta=config.min_gain,
                patience=config.patience,
                mode="max",
                check_on_train_epoch_end=False,
            )
        )
    if config.compile:
        chosen.append(CompiledSteps())
    if config.examples:
        chosen.append(ExampleLogger(config.examples))
    return chosen


def progress(config: TrainerConfig) -> list[Callback]:
    """Returns the progress bar, unless it is switched off: Lightning refuses a bar then."""
    return [] if config.enable_progress_bar is False else [TQDMProgressBar(refresh_rate=10)]


def explaining(settings: Settings) -> list[Callback]:
    """Returns the callback that explains held-out answers or captions, if asked for."""
    if not settings.explain.every:
        return []
    from clipmapper.benchmark.callback import ExplainabilityCallback  # here: training alone needs none of it

    return [ExplainabilityCallback(settings.explain, settings.data.root if settings.data.hub is None else None)]


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


@rank_zero_only
def say(text: str) -> None:
    print(text, flush=True)


def report(data: Data) -> None:
    """Says which questions or captions were left out, and why."""
    for name, texts in (("train", data.train), ("val", data.val)):
        for reason, count in texts.skipped().items():
            if count:
                example = next(iter(texts.unreadable.values()), "")
                say(f"{name}: {count} {texts.text}s left out: {reason}. {example}")
