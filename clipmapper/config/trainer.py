"""Settings of Lightning's Trainer."""

from dataclasses import dataclass
from typing import Literal

from clipmapper.config.checks import require

Precision = Literal[
    "64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", "transformer-engine",
    "transformer-engine-float16", "64", "32", "16", "bf16", 64, 32, 16,
]  # fmt: skip

# Options of Lightning's Trainer that are no settings -> who decides.
RESERVED = {
    "logger": "run.loggers names the loggers",
    "callbacks": "they follow from run and explain",
    "default_root_dir": "run.dir is the folder of the run",
    "enable_checkpointing": "checkpoints are always written, every run.checkpoint_every steps",
    "use_distributed_sampler": "batches know their process",
    "plugins": "checkpoints are written whole or not at all by a plugin of the run",
    "enable_autolog_hparams": "all settings are logged once",
    "model_registry": "checkpoints stay in run.dir",
    "limit_test_batches": "train.py runs no test; evaluate.py does",
    "limit_predict_batches": "train.py predicts nothing; evaluate.py does",
    "barebones": "it forbids logs and checkpoints, which every run has",
    "sync_batchnorm": "no model here has batch norm",
    "reload_dataloaders_every_n_epochs": "data stay the same over a run",
}


@dataclass
class TrainerConfig:
    """The length of training and its devices: options of Lightning's Trainer, with its defaults.

    Attributes:
        accelerator: cpu, gpu, mps, ...; auto takes the best there is.
        strategy: ddp for several processes, each with a share of a batch.
        devices: how many of a machine, -1 for all of them, or their numbers.
        num_nodes: machines.
        precision: bf16-mixed, 16-mixed, 32-true, ...; null for 32-true.
        fast_dev_run: a trial run of so many batches.
        max_epochs: null with max_steps -1 for 1000; -1 for no limit.
        min_epochs: at least so many.
        max_steps: optimizer steps; -1 for no limit.
        min_steps: at least so many.
        max_time: DD:HH:MM:SS, or {hours: 1}.
        limit_train_batches: batches of an epoch, or the share of them; null for all.
        limit_val_batches: batches of a validation, or the share of them; null for all.
        overfit_batches: train and validate on the same few batches, or a share of them.
        val_check_interval: share of an epoch (0.25), batches (500), or time between validations; null for an epoch.
        check_val_every_n_epoch: null counts the batches of val_check_interval over epochs.
        num_sanity_val_steps: validation batches before training; null for 2.
        log_every_n_steps: null for 50.
        enable_progress_bar: false shows none; null shows it.
        enable_model_summary: false prints no table of the model's parts; null prints it.
        accumulate_grad_batches: batches an optimizer step.
        gradient_clip_val: null does not clip.
        gradient_clip_algorithm: norm or value; null for norm.
        deterministic: deterministic algorithms only; warn where there is none.
        benchmark: cuDNN looks for the fastest algorithm.
        inference_mode: validation under torch.inference_mode, else under torch.no_grad.
        profiler: simple, advanced, pytorch or xla.
        detect_anomaly: finds the operation whose gradient is NaN; slow.
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    devices: list[int] | str | int = "auto"
    num_nodes: int = 1
    precision: Precision | None = None
    fast_dev_run: int | bool = False
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | dict[str, int] | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: int | float | str | dict[str, int] | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False

    def __post_init__(self) -> None:
        for name in ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"):
            value = getattr(self, name)
            if isinstance(value, float):
                require(
                    0 <= value <= 1, f"trainer.{name}", value, "a share from 0.0 to 1.0, or a whole number of batches"
                )
            elif isinstance(value, int):
                require(value >= 0, f"trainer.{name}", value, "0 or more batches, or a share such as 0.5")
        require(self.val_check_interval != 0, "trainer.val_check_interval", self.val_check_interval, "above 0")
        require(self.limit_train_batches != 0, "trainer.limit_train_batches", self.limit_train_batches, "above 0")
        for name in ("accumulate_grad_batches", "num_nodes"):
            require(getattr(self, name) > 0, f"trainer.{name}", getattr(self, name), "above 0")
        for name in ("max_epochs", "max_steps"):
            value = getattr(self, name)
            require(value is None or value == -1 or value > 0, f"trainer.{name}", value, "above 0, or -1 for no limit")
        for name in ("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"trainer.{name}", value, "0 or more, or null")
        steps, every = self.num_sanity_val_steps, self.check_val_every_n_epoch
        require(steps is None or steps >= -1, "trainer.num_sanity_val_steps", steps, "0 or more, -1 for all, or null")
        require(every is None or every > 0, "trainer.check_val_every_n_epoch", every, "above 0, or null")
