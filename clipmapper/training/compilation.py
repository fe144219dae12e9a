"""torch.compile of the training step."""

import os
import shutil
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from clipmapper.training.tasks import MapperTask


class CompiledSteps(Callback):
    """Compiles mapper and head for training steps; CLIP, validation and what explains or decodes there run as written.

    The modules are compiled in place, so that weights keep their names. Raises ValueError if there is no compiler.
    """

    def on_fit_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, MapperTask)
        require_compiler(task.device)
        for part in (task.model.mapper, task.model.head):
            part.compile()

    # A recording sees no attention in compiled code, and tokens that are removed would compile it anew for each length.
    def on_validation_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        torch.compiler.set_stance("default")

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        torch.compiler.set_stance("default")


def require_compiler(device: torch.device) -> None:
    """Raises ValueError unless the compiler that torch calls for code of this device is there."""
    language, variable, names = "C++", "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    if device.type != "cpu":
        language, variable, names = "C", "CC", ["gcc", "clang"]  # Triton builds with it what launches its kernels
    wanted = [os.environ[variable]] if os.environ.get(variable) else names
    if not any(shutil.which(name) for name in wanted):
        raise ValueError(
            f"run.compile: torch.compile needs a {language} compiler, and {' or '.join(wanted)} is not there: "
            f"install one, name it in {variable}, or leave run.compile out"
        )
