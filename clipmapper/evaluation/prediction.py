"""A trained model's predictions for every row of a data set."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from torch.utils.data import Subset

from clipmapper.config import DataConfig
from clipmapper.data.batches import Batches, Texts, loader
from clipmapper.training.tasks import MapperTask


def predictions(
    task: MapperTask, texts: Texts, data: DataConfig, accelerator: str, rows: Sequence[int] | None = None
) -> list[Any]:
    """What `task.predict_step` gives for each batch, in order; of `rows` of `texts`, by default all."""
    chosen = texts if rows is None else Subset(texts, rows)
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, logger=False, callbacks=[TQDMProgressBar(refresh_rate=10)],
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    count = len(texts) if rows is None else len(rows)
    return trainer.predict(task, loader(chosen, Batches(count, data.batch_size, None), data.workers)) or []
