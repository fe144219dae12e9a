"""Settings that the benchmarks of the papers share: the model, the files, the choice of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from tqdm import tqdm

from clipmapper.data.files import MissingData
from clipmapper.images import BadImage
from xai.files import visible

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PaperSettings:
    """Settings that the benchmarks of the papers share.

    Attributes:
        model: a folder, a hub id, or (models of images alone) timm:NAME; weights must be safetensors.
        output: folder for the results.
        device: where to compute; null for a GPU if there is one.
        dtype: float64 makes LRP exact (docs/lrp.md).
    """

    model: str
    output: Path
    device: str | None = None
    dtype: Literal["float32", "float64"] = "float32"

    def key(self) -> dict[str, Any]:
        """Returns what results depend on, as plain values that stay when all is moved: no path, but names and sizes."""
        values = {name: value for name, value in vars(self).items() if name not in ("output", "device", "labels")}
        local = {
            name: Path(v) for name, v in values.items() if isinstance(v, Path) or (name == "model" and Path(v).exists())
        }
        return values | {name: identity(path) for name, path in local.items()}


def identity(path: Path) -> str:
    """Returns the name of a file or folder, and of a file its size; the samples in a folder have names of their own."""
    return f"{path.name}, {path.stat().st_size} bytes" if path.is_file() else path.resolve().name


def required(path: Path, option: str, folder: bool = False) -> Path:
    """Returns the path; raises MissingData if there is no such file, or no such folder with something in it."""
    if folder and not (path.is_dir() and visible(path)):
        state = "empty" if path.is_dir() else "no folder"
        raise MissingData(f"--{option}: {path} is {state}; what should be in it: --help")
    if not folder and not path.is_file():
        raise MissingData(f"--{option}: no file {path}")
    return path


def spread(count: int, samples: int | None) -> list[int]:
    """Returns rows from all over `count`; raises ValueError if there is none."""
    if not count:
        raise ValueError("the data has no sample")
    return torch.linspace(0, count - 1, min(samples or count, count), dtype=torch.float64).long().tolist()


def readable(samples: Sequence[T], read: Callable[[T], object]) -> list[T]:
    """Returns the samples that can be read, found out before the long work; says which are left out.

    Raises:
        BadImage: none can be read.
    """
    good = []
    for sample in tqdm(samples, desc="reading", unit="image"):
        try:
            read(sample)
        except (BadImage, OSError) as error:
            tqdm.write(f"left out: {error}")
        else:
            good.append(sample)
    if not good:
        raise BadImage(f"none of {len(samples)} images can be read")
    if len(good) < len(samples):
        tqdm.write(f"left out: {len(samples) - len(good)} of {len(samples)} images")
    return good
