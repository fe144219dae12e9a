"""A trained model from wherever it is kept."""

from pathlib import Path
from typing import Any

from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.checkpoints import read_checkpoint
from clipmapper.training.tasks import described, model_from_checkpoint


def trained(source: str) -> CLIPMapper:
    """As `trained_with`, without what it was trained with."""
    return trained_with(source)[0]


def trained_with(source: str) -> tuple[CLIPMapper, dict[str, Any]]:
    """That of a checkpoint of train.py, a folder of save_pretrained, a model that ships, or a hub id; in eval mode.

    Beside it the `extra` of its checkpoint, such as the data configuration; empty for the others.
    Raises ValueError or FileNotFoundError, naming `source`.
    """
    if Path(source).suffix == ".ckpt" or Path(source).is_file():
        checkpoint = read_checkpoint(source)
        return model_from_checkpoint(checkpoint, source), described(checkpoint, source)["extra"]
    return CLIPMapper.from_pretrained(source), {}
