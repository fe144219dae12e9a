"""Lightning loggers by name, and tables and pictures that every one of them can keep."""

import csv
import functools
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from clipmapper.errors import unknown
from xai.files import replacing

# Advice of Lightning's that does not hold here: CLIP stays in eval mode, our batches do resume within an epoch.
NEEDLESS = (
    r"Found \d+ module\(s\) in eval mode",
    ".*your dataloader is not resumable",
    "Checkpoint directory .* not empty",
    r".*isinstance\(treespec, LeafSpec\)",
)


def quiet_lightning() -> None:
    """Leaves the advice above out of what is printed."""
    for message in NEEDLESS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)


def make_loggers(
    names: Sequence[str], save_dir: Path, project: str, run_name: str | None, config: Mapping[str, Any]
) -> list[Logger]:
    """Loggers by name ("wandb", "csv", "tensorboard"), each in its own folder of `save_dir`, with `config` logged.

    W&B never asks and never fails the run: without a login it logs offline, and if it cannot start, it is left out
    with a warning. ValueError for an unknown name, ModuleNotFoundError if tensorboard is not installed.
    """
    makers = {"wandb": _wandb, "csv": _csv, "tensorboard": _tensorboard}
    for name in names:
        if name not in makers:
            raise unknown("logger", name, makers)
    save_dir = save_dir.absolute()
    save_dir.mkdir(parents=True, exist_ok=True)
    made = [makers[name](save_dir, project, run_name) for name in names]
    loggers = [logger for logger in made if logger is not None]
    for logger in loggers:
        logger.log_hyperparams(dict(config))
    return loggers


def _csv(save_dir: Path, project: str, run_name: str | None) -> Logger:
    return CSVLogger(save_dir / "csv", _folder_name(project, run_name))


def _tensorboard(save_dir: Path, project: str, run_name: str | None) -> Logger:
    if importlib.util.find_spec("tensorboard") is None:
        raise ModuleNotFoundError("logger 'tensorboard' needs tensorboard: pip install clipmapper[tensorboard]")
    return TensorBoardLogger(save_dir / "tensorboard", _folder_name(project, run_name))


def _wandb(save_dir: Path, project: str, run_name: str | None) -> Logger | None:
    for choose, otherwise in ((_wandb_mode, "trying offline"), (lambda: "offline", "going on without W&B")):
        try:
            return _start_wandb(save_dir, project, run_name, choose())
        except Exception as error:
            warnings.warn(f"W&B could not start ({_summary(error)}): {otherwise}", stacklevel=3)
    return None


def _wandb_mode() -> str:
    """What the user set (WANDB_MODE, `wandb offline`), but offline where "online" would have to ask for a login."""
    import wandb  # here: slow, and not needed by runs that log elsewhere

    mode = wandb.setup().settings.mode
    if mode in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False):
        return mode
    return "offline"


def _start_wandb(save_dir: Path, project: str, run_name: str | None, mode: str) -> Logger:
    logger = _SafeWandbLogger(name=run_name, save_dir=save_dir, project=project, mode=mode)
    _tell_if_offline(logger.experiment)  # starts the run now, where a failure is handled
    return logger


@rank_zero_only
def _tell_if_offline(run: Any) -> None:
    if run.offline:
        print(f"W&B logs offline. To upload this run later: wandb login && wandb sync {run.settings.sync_dir}")


def _never_fatal(method: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            warnings.warn(f"W&B: {method.__name__} failed ({_summary(error)}): going on", stacklevel=2)

    return guarded


class _SafeWandbLogger(WandbLogger):
    """Losing a point of a curve must not lose the training."""

    log_metrics = _never_fatal(WandbLogger.log_metrics)
    log_hyperparams = _never_fatal(WandbLogger.log_hyperparams)
    log_table = _never_fatal(WandbLogger.log_table)
    log_image = _never_fatal(WandbLogger.log_image)


@rank_zero_only
def log_table(
    loggers: Sequence[Logger], name: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int | None = None
) -> None:
    """Log a table: W&B table, TensorBoard Markdown text, or `tables/NAME.csv` in the CSV logger's folder."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns, [list(row) for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, _markdown(columns, rows), step)
        elif isinstance(logger, CSVLogger):
            suffix = "" if step is None else f"-{step:08d}"
            path = Path(logger.log_dir, "tables", f"{_file_name(name)}{suffix}.csv")
            with replacing(path) as temporary:
                _write_csv([columns, *rows], temporary)


@rank_zero_only
def log_examples(loggers: Sequence[Logger], name: str, images: list[Image], captions: list[str], step: int) -> None:
    """Log captioned pictures: W&B images, TensorBoard images and texts, or PNG files in `examples/NAME/STEP`.

    The file name of a PNG has the beginning of the caption, its "Description" field the whole.
    """
    if len(images) != len(captions):
        raise ValueError(f"examples '{name}': {len(images)} images, but {len(captions)} captions")
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, list(images), step=step, caption=captions)
        elif isinstance(logger, TensorBoardLogger):
            for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
                pixels = np.asarray(image.convert("RGB"))
                logger.experiment.add_image(f"{name}/{i}", pixels, step, dataformats="HWC")
                logger.experiment.add_text(f"{name}/{i}", caption, step)
        elif isinstance(logger, CSVLogger):
            folder = Path(logger.log_dir, "examples", _file_name(name), f"{step:08d}")
            for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
                words = re.sub(r"[^A-Za-z0-9]+", "-", caption).strip("-")[:60]
                with replacing(folder / f"{i:02d}-{words}.png") as temporary:
                    _write_png(image, caption, temporary)


def _write_png(image: Image, caption: str, path: Path) -> None:
    info = PngInfo()
    info.add_itxt("Description", caption)
    image.convert("RGB").save(path, "PNG", pnginfo=info)


def _write_csv(rows: Sequence[Sequence[Any]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _file_name(name: str) -> str:
    """One path component for any name; different names stay different."""
    return quote(name, safe=" ").replace(".", "%2E")


def _folder_name(project: str, run_name: str | None) -> str:
    # Lightning numbers runs below this folder, so that a repeated name does not overwrite the earlier run
    return os.path.join(*(_file_name(part) for part in (project, run_name) if part))


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
