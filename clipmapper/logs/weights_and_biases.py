"""Runs in Weights & Biases: they never ask for a login, never fail the program, and go on where they stopped."""

import functools
import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from clipmapper.logs.memory import MEMORY, Memory
from xai.files import checksum

STEP = "trainer/global_step"  # the x-axis of all charts
SMALLEST = ("train/loss", "val/loss")  # metrics whose best value is the smallest
FLUSH = "x_transaction_log_flush_interval"  # W&B's setting, in seconds
LAST = ("train/skipped", "val/skipped")  # counts, of which none is best


def _never_fatal(method: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            warnings.warn(f"W&B: {method.__name__} failed ({summary(error)}): going on", stacklevel=2)

    return guarded


class RunLogger(WandbLogger):
    """A W&B run that cannot stop the training, and that knows what it has logged before it was interrupted.

    Args:
        run: the W&B run; None in processes that log nothing.
        memory: what is kept of it in the folder of the training run.
        options: Lightning's.
    """

    def __init__(self, run: Any, memory: Memory | None = None, **options: Any) -> None:
        super().__init__(experiment=run, **options)
        self.memory = memory or Memory()
        self._defined: set[str] = set()

    @rank_zero_only
    @_never_fatal
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs what the run does not have yet: one that goes on repeats the steps since its checkpoint, with the same values."""
        fresh = self.memory.fresh(metrics, step)
        if not fresh:
            return
        for name in sorted(fresh.keys() - self._defined):
            kept = (
                summary_of(name) if isinstance(fresh[name], int | float) else None
            )  # pictures and tables have no best
            self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=kept)
            self._defined.add(name)
        super().log_metrics(fresh, step)
        self.memory.add(fresh, step)

    log_hyperparams = rank_zero_only(_never_fatal(WandbLogger.log_hyperparams))
    log_table = rank_zero_only(_never_fatal(WandbLogger.log_table))
    log_image = rank_zero_only(_never_fatal(WandbLogger.log_image))

    @rank_zero_only
    @_never_fatal
    def log_curves(self, charts: Mapping[str, Mapping[str, Mapping[float, float]]], xname: str, step: int) -> None:
        """Logs line charts that W&B draws: by chart and line the values at each x."""
        import wandb

        drawn = {
            name: wandb.plot.line_series(
                xs=[list(line) for line in lines.values()],
                ys=[list(line.values()) for line in lines.values()],
                keys=list(lines),
                title=name,
                xname=xname,
            )
            for name, lines in charts.items()
        }
        self.log_metrics(drawn, step)

    @rank_zero_only
    @_never_fatal
    def log_files(
        self, name: str, kind: str, files: Sequence[Path], aliases: Sequence[str], about: Mapping[str, Any]
    ) -> None:
        """Logs files as a version of the artifact NAME-ID, where ID is the run's.

        W&B would copy them twice, and checkpoints are large. Here each gets a second name (a hard link) in the run's folder,
        from which it is uploaded, now or by `wandb sync`: that costs no room, and the file stays what it was when a run that
        goes on replaces the first one. Only where a disk has no links a copy is made.
        """
        import wandb

        if getattr(self.experiment, "disabled", False):
            return
        title = f"{name}-{self.experiment.id}"
        artifact = wandb.Artifact(title, kind, metadata=dict(about))
        folder = Path(self.experiment.settings.sync_dir, "artifacts", f"{title}-{'-'.join(aliases)}")
        for path in files:
            linked = _link(path, folder / path.name)
            artifact.add_file(
                str(linked or path), path.name, policy="immutable" if linked else "mutable", skip_cache=True
            )
        self.experiment.log_artifact(artifact, aliases=list(aliases))
        place = "/".join(part for part in (self.experiment.entity, self.experiment.project) if part)
        for path in files:
            self.memory.artifacts[checksum(path)] = f"{place}/{title}:{aliases[0]}"
        self.memory.save()

    @rank_zero_only
    @_never_fatal
    def use(self, artifact: str) -> None:
        """Says that the run has used an artifact of another: offline in its settings alone, as W&B has no other way."""
        self.experiment.config.update({"model_artifact": artifact}, allow_val_change=True)
        if not self.experiment.offline:
            self.experiment.use_artifact(artifact)

    @rank_zero_only
    @_never_fatal
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Puts values beside the run, which no chart shows."""
        self.experiment.summary.update(dict(values))

    @rank_zero_only
    @_never_fatal
    def finish(self, exit_code: int = 0) -> None:
        """Ends the run, so that the next one in this process is another."""
        self.experiment.finish(exit_code=exit_code)


def _link(path: Path, link: Path) -> Path | None:
    """Gives a file a second name; None where the disk has none."""
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        os.link(path, link)
    except OSError:
        return None
    return link


def summary_of(name: str) -> str:
    """What the run's table shows of a metric: the best value in validation, else the last one."""
    if name in SMALLEST:
        return "min"
    return "max" if name.startswith("val/") and name not in LAST else "last"


def start(
    save_dir: Path, project: str, run_name: str | None, goes_on: bool, job: str, group: str | None
) -> RunLogger | None:
    """Starts a run, or goes on with that of the folder; None, with a warning, where W&B cannot start.

    WANDB_PROJECT and WANDB_NAME are heeded, as is WANDB_RUN_ID for a run of its own (a sweep sets it), but not for those
    of a group beside it.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return RunLogger(None)
    import wandb  # here: slow, and not needed by runs that log elsewhere

    kept = Memory.read(save_dir / MEMORY) if goes_on else None
    options: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT") or project,
        "name": (group is None and os.environ.get("WANDB_NAME")) or run_name,
        "id": kept.id if kept else (group is None and os.environ.get("WANDB_RUN_ID")) or uuid.uuid4().hex[:8],
        "group": group,
        "job_type": job,
        "dir": str(save_dir),
        "resume": "allow",
        "reinit": "create_new",  # one that the user has started is not ours to log into
    }
    if FLUSH in wandb.Settings.model_fields:
        options["settings"] = {FLUSH: 0.1}  # else a killed process loses a quarter of a minute of its offline log
    for choose, otherwise in ((mode, "trying offline"), (lambda: "offline", "going on without W&B")):
        try:
            run = wandb.init(**{**options, "mode": choose()})
            memory = kept or Memory(id=run.id)
            memory.path = save_dir / MEMORY
            memory.save()
            _tell_if_offline(run, kept is not None)
            run.define_metric(STEP, hidden=True)
            return RunLogger(run, memory, name=options["name"], project=options["project"], save_dir=save_dir)
        except Exception as error:
            warnings.warn(f"W&B could not start ({summary(error)}): {otherwise}", stacklevel=4)
    return None


def mode() -> str:
    """Returns what the user set (WANDB_MODE, `wandb offline`), but offline where "online" would have to ask for a login."""
    import wandb

    asked = wandb.setup().settings.mode
    if asked in ("offline", "dryrun", "disabled") or wandb.login(prompt=False, verify=False):
        return asked
    return "offline"


def _tell_if_offline(run: Any, resumed: bool) -> None:
    if run.offline:
        folder = Path(run.settings.sync_dir)
        parts = folder.with_name(f"offline-run-*-{run.id}") if resumed else folder  # each start has written its own
        print(f"W&B logs offline. To upload this run later: wandb login && wandb sync {parts}")


def summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
