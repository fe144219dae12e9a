"""A model's predictions for many rows of a data set, shared by the processes that were launched together."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch.utils.data import Subset
from tqdm import tqdm

from clipmapper.config import DataConfig, OptimizerConfig
from clipmapper.data.batches import Batches, Texts, loader
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import Explainable, VQAModel, prepare_questions
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.files import write_json
from clipmapper.images import BadImage
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import World, launched, wait
from clipmapper.training.tasks import MapperTask, VQATask

Predictions = dict[int, Any]  # by row
AT_ONCE = 64  # questions that a model without a feature cache answers at once


def shared(
    folder: Path, predict: Callable[[Sequence[int]], Predictions], rows: Sequence[int], world: World | None = None
) -> Predictions:
    """Returns the predictions for all rows to the first process, and to each other one those of its share.

    Args:
        folder: where the processes leave their shares for the first one; it goes afterwards.
        predict: the predictions for some rows, without those that cannot be read.
        rows: all rows.
        world: the processes; by default those that were launched together.
    """
    world = world or launched()
    own = predict(world.share(rows))
    if world.size == 1:
        return own
    paths = [folder / f"{rank}-of-{world.size}.json" for rank in range(world.size)]
    if not world.first:
        write_json(paths[world.rank], list(own.items()))
        return own
    wait(lambda: 1 + sum(path.is_file() for path in paths[1:]), world.size, "shares of the answers")
    others = [dict(map(tuple, json.loads(path.read_text()))) for path in paths[1:]]
    shutil.rmtree(folder, ignore_errors=True)
    return {row: value for part in (own, *others) for row, value in part.items()}


def answers_of(
    model: VQAModel | CLIPMapper, questions: Questions, data: DataConfig, rows: Sequence[int]
) -> dict[int, str]:
    """Returns the likeliest answer for the rows that can be read."""
    mapper = mapper_of(model)
    if mapper is not None:
        questions.encode_once(mapper.clip, data)
        usable = set(rows)
        places = [place for place, row in enumerate(questions.rows.tolist()) if row in usable]
        task = VQATask(mapper, OptimizerConfig(), seed=0, extra={})
        device = mapper.image_projection.weight.device
        parts = predictions(task, questions, data, device, places)
        pairs = [torch.stack(part, dim=1) for part in parts]  # rows and labels
        labels = torch.cat(pairs).tolist() if pairs else []
        return {row: mapper.answers[label] for row, label in labels}
    assert isinstance(model, VQAModel)
    answers: dict[int, str] = {}
    size = AT_ONCE if model.batch_size > 1 else 1
    for start in tqdm(range(0, len(rows), size), desc="answering", unit="batch"):
        try:
            prepared = prepare_questions(model, questions, rows[start : start + size])
        except BadImage:
            continue
        texts = model.texts(model.answer(prepared.inputs))
        answers |= zip(prepared.records["row"], texts, strict=True)
    return answers


def of_shapes(model: Explainable | CLIPMapper) -> bool:
    """Tells whether a model sees by the CLIP that knows Shapes alone."""
    mapper = mapper_of(model)
    clip = mapper.clip if mapper is not None else getattr(model, "clip", None)
    return isinstance(clip, FrozenCLIP) and clip.name == SHAPES_CLIP


def mapper_of(model: Explainable | CLIPMapper) -> CLIPMapper | None:
    """Returns the CLIPMapper that a model is, whose image tokens are cached; None for another kind."""
    if isinstance(model, MapperModel):
        return model.model
    return model if isinstance(model, CLIPMapper) else None


def predictions(
    task: MapperTask, texts: Texts, data: DataConfig, device: torch.device, places: Sequence[int] | None = None
) -> list[Any]:
    """Returns what `task.predict_step` gives for each batch, in order.

    Args:
        task: the model in its task.
        texts: the data set.
        data: how it is read.
        device: where the model computes.
        places: places among the usable rows; None for all.
    """
    subset = texts if places is None else Subset(texts, places)
    count = len(texts) if places is None else len(places)
    if not count:
        return []
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        logger=False,
        callbacks=[TQDMProgressBar(refresh_rate=10)],
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    return trainer.predict(task, loader(subset, Batches(count, data.batch_size, None), data.workers)) or []
