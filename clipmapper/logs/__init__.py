"""Lightning loggers by name, and tables and pictures that every one of them can keep."""

import csv
import importlib.util
import logging
import math
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

from clipmapper.config import check_loggers
from clipmapper.logs.weights_and_biases import RunLogger, start
from xai.files import read_text, replacing

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
    names: Sequence[str],
    save_dir: Path,
    project: str,
    run_name: str | None,
    config: Mapping[str, Any],
    resume_step: int | None = None,
    job: str = "train",
    group: str | None = None,
) -> list[Logger]:
    """Starts loggers, each in its own folder of `save_dir`, and logs the settings.

    W&B never asks and never fails the run: without a login it logs offline, and if it cannot start, it is left out
    with a warning.

    Args:
        names: "wandb", "csv", "tensorboard".
        save_dir: folder of the run.
        project: of W&B, and a folder of the others.
        run_name: the run's name there.
        config: the settings.
        resume_step: of a run that goes on, the step it goes on from. It goes on in its own logs, from which what came
            after that step is taken out; W&B, where nothing can be taken out, gets nothing of it twice.
        job: kind of the run, for W&B.
        group: name of the run that this one stands beside, for W&B.

    Raises:
        ValueError: an unknown name.
        ModuleNotFoundError: tensorboard is not installed.
    """
    require_loggers(names)
    save_dir = save_dir.absolute()
    save_dir.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Logger | None]] = {
        "wandb": lambda: start(save_dir, project, run_name, resume_step is not None, job, group),
        "csv": lambda: _csv(save_dir, project, run_name, resume_step),
        "tensorboard": lambda: _tensorboard(save_dir, project, run_name, resume_step),
    }
    made = [makers[name]() for name in dict.fromkeys(names)]
    loggers = [logger for logger in made if logger is not None]
    for logger in loggers:
        logger.log_hyperparams(dict(config))
    return loggers


def require_loggers(names: Sequence[str]) -> None:
    """Raises ValueError for an unknown logger, ModuleNotFoundError for one that is not installed."""
    check_loggers(names)
    if "tensorboard" in names and importlib.util.find_spec("tensorboard") is None:
        raise ModuleNotFoundError("logger 'tensorboard' needs tensorboard: pip install clipmapper[tensorboard]")


def _csv(save_dir: Path, project: str, run_name: str | None, resume_step: int | None) -> Logger:
    folder = _folder_name(project, run_name)
    logger = CSVLogger(save_dir / "csv", folder, _version(save_dir / "csv" / folder, resume_step, "metrics.csv"))
    if resume_step is not None:
        _go_on(logger, resume_step)
    return logger


@rank_zero_only
def _go_on(logger: CSVLogger, step: int) -> None:
    """Keeps the rows of an earlier start, which Lightning would throw away."""
    path = Path(logger.log_dir, "metrics.csv")
    if not path.is_file():
        return
    rows = [row for row in _logged(path) if int(row["step"]) < step]  # steps count from 0: this one is done again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it throws them away
        logger.experiment.metrics.extend({name: value for name, value in row.items() if value} for row in rows)
    logger.experiment.save()


def _logged(path: Path) -> list[dict[str, str]]:
    """The rows of a log, without one that a killed process left half written. Raises ValueError for a file that is none."""
    text = read_text(path)
    try:
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].split("\n")))
    except csv.Error as error:
        raise ValueError(
            f"{path}: no table of numbers ({error}); remove it to go on without what was logged"
        ) from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values() or not re.fullmatch("[0-9]{1,18}", row.get("step", "")):
            raise ValueError(f"{path}: row {number} has no step, or not every column; remove it to go on without it")
    return rows


def _version(folder: Path, resume_step: int | None, records: str) -> int | None:
    """The number of the newest start, if the run goes on from it or it has logged nothing; else None, for a new one."""
    numbers = [int(path.name.removeprefix("version_")) for path in folder.glob("version_*") if path.name[8:].isdigit()]
    if not numbers or (resume_step is None and list(folder.glob(f"version_{max(numbers)}/{records}"))):
        return None
    return max(numbers)


def _tensorboard(save_dir: Path, project: str, run_name: str | None, resume_step: int | None) -> Logger:
    folder = _folder_name(project, run_name)
    version = _version(save_dir / "tensorboard" / folder, resume_step, "events*")
    return TensorBoardLogger(save_dir / "tensorboard", folder, version, purge_step=resume_step, default_hp_metric=False)


@rank_zero_only
def log_table(
    loggers: Sequence[Logger], name: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int | None = None
) -> None:
    """Log a table: W&B table, TensorBoard Markdown text, or `tables/NAME.csv` in the CSV logger's folder."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns, [[_finite(cell) for cell in row] for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, _markdown(columns, rows), step)
        elif isinstance(logger, CSVLogger):
            suffix = "" if step is None else f"-{step:08d}"
            path = Path(logger.log_dir, "tables", f"{_path_name(name)}{suffix}.csv")
            with replacing(path) as temporary:
                _write_csv([columns, *rows], temporary)


@rank_zero_only
def log_curves(loggers: Sequence[Logger], name: str, rows: Sequence[tuple[str, str, float, float]], step: int) -> None:
    """Logs curves: charts that W&B draws, NAME/CHART; elsewhere a table of their points.

    Args:
        loggers: where to.
        name: of all of them.
        rows: chart, line, share removed and value of each point.
        step: of training.
    """
    charts: dict[str, dict[str, dict[float, float]]] = {}
    for chart, line, share, value in rows:
        charts.setdefault(f"{name}/{chart}", {}).setdefault(line, {})[share] = value
    for logger in loggers if rows else ():
        if isinstance(logger, RunLogger):
            logger.log_curves(charts, "share removed", step)
        else:
            log_table([logger], f"{name}/points", ["chart", "line", "share removed", "value"], rows, step)


@rank_zero_only
def log_files(
    loggers: Sequence[Logger],
    name: str,
    kind: str,
    files: Sequence[Path],
    aliases: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Logs files as an artifact of W&B; the others need none, for the files lie beside their logs.

    Args:
        loggers: where to.
        name: of the artifact, to which the run's id is added.
        kind: W&B's type: model, evaluation.
        files: those that are not there are left out.
        aliases: names of this version, such as best.
        about: facts that are shown with it.
    """
    there = [path for path in files if path.is_file()]
    for logger in loggers if there else ():
        if isinstance(logger, RunLogger):
            logger.log_files(name, kind, there, aliases, about)


@rank_zero_only
def use_artifact(loggers: Sequence[Logger], artifact: str) -> None:
    """Says in W&B that a run has used an artifact, such as the checkpoint it evaluates."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.use(artifact)


@rank_zero_only
def finish(loggers: Sequence[Logger], best: Mapping[str, Any] | None = None, failed: bool = False) -> None:
    """Ends what has been logged; `best` are values that stand beside the run."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            if best:
                logger.log_summary(best)
            logger.finish(exit_code=int(failed))
        else:
            logger.finalize("failed" if failed else "success")


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
            folder = Path(logger.log_dir, "examples", _path_name(name), f"{step:08d}")
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
    return "\n".join("| " + " | ".join(_one_line(cell) for cell in line) + " |" for line in lines)


def _one_line(cell: Any) -> str:
    return " ".join(str(cell).replace("|", "\\|").split("\n"))


def _finite(cell: Any) -> Any:
    """W&B sorts a column by its numbers where none is NaN."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _file_name(name: str) -> str:
    """One path component for any name; different names stay different."""
    return quote(name, safe=" ").replace(".", "%2E")


def _path_name(name: str) -> str:
    """A name with slashes as folders below one another."""
    return os.path.join(*(_file_name(part) or "%" for part in name.split("/")))


def _folder_name(project: str, run_name: str | None) -> str:
    # Lightning numbers runs below this folder, so that a repeated name does not overwrite the earlier run
    return os.path.join(*(_file_name(part) for part in (project, run_name) if part))
