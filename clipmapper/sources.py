"""A trained model from wherever it is kept."""

from pathlib import Path

from clipmapper.checkpoints import read_checkpoint
from clipmapper.model import CLIPMapper
from clipmapper.tasks import model_from_checkpoint


def trained(source: str) -> CLIPMapper:
    """That of a checkpoint of train.py, a folder of save_pretrained, a model that ships, or a hub id; in eval mode.

    Raises ValueError or FileNotFoundError, naming `source`.
    """
    if Path(source).suffix == ".ckpt" or Path(source).is_file():
        return model_from_checkpoint(read_checkpoint(source), source)
    return CLIPMapper.from_pretrained(source)
