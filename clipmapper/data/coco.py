"""COCO captions and data sets laid out like them: the official JSON files as a memory-mapped table, one row a caption.

root/annotations/captions_{train,val}2014.json, root/train2014/COCO_train2014_000000000009.jpg and likewise val2014. The
splits are those two files, or Karpathy's: `dataset_coco.json`, or lists of image names `coco_{train,val,test}.txt[.gz]`.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value, concatenate_datasets

from clipmapper.data.files import (
    BadData,
    column,
    entries,
    field,
    image_path,
    once,
    renamed_images,
    require,
    table,
)
from xai.files import read_text

FEATURES = Features(
    caption_id=Value("int64"),
    image_id=Value("int64"),
    image=Value("string"),  # below the root; a Hub data set has the image itself here
    caption=Value("string"),
)
FOLDERS = {"train": "train2014", "val": "val2014"}
KARPATHY = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}  # as `dataset_coco.json` names them


def read_captions(
    root: str | Path, split: str, karpathy: Path | None = None, cache_dir: str | Path | None = None
) -> Dataset:
    """The captions of a split with columns FEATURES, in file order.

    `karpathy` is `dataset_coco.json` or a folder of name lists; None takes the files' own splits, "train" and "val".
    Raises ValueError for another split, MissingData, BadData.
    """
    known = FOLDERS if karpathy is None else KARPATHY
    if split not in known:
        hint = "; Karpathy's splits (data.karpathy) have a test split" if karpathy is None else ""
        raise ValueError(f"split {split!r}: captions have {', '.join(known)}{hint}")
    root = Path(root).absolute()
    if karpathy is None:
        return _read_file(root, FOLDERS[split], cache_dir)
    # All paths in one message, those of the captions too.
    require([*_split_files(karpathy, split), *(_path(root, folder) for folder in FOLDERS.values())], "Caption")
    wanted = _image_ids(karpathy, split, cache_dir)
    every = concatenate_datasets([_read_file(root, folder, cache_dir) for folder in FOLDERS.values()])
    rows = np.flatnonzero(np.isin(column(every, "image_id").to_numpy(), wanted))
    if not len(rows):
        raise BadData(
            f"{_split_files(karpathy, split)[0]}: none of its {len(wanted)} {split} images has a caption below {root}"
        )
    return every.select(rows)


def _path(root: Path, folder: str) -> Path:
    return root / "annotations" / f"captions_{folder}.json"


def _read_file(root: Path, folder: str, cache_dir: str | Path | None) -> Dataset:
    path = _path(root, folder)
    require([path], "Caption")
    given = {"path": path, "folder": folder, "renamed": renamed_images(root / folder)}
    return table(_rows, given, FEATURES, [path], __file__, folder, cache_dir)


def _rows(path: Path, folder: str, renamed: dict[int, str]) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for entry in entries(path, "annotations"):
        image_id = field(entry, "image_id", int, path)
        yield {
            "caption_id": once(field(entry, "id", int, path), "id", seen, path),
            "image_id": image_id,
            "image": image_path(folder, image_id, renamed),
            "caption": field(entry, "caption", str, path).strip(),
        }


def _split_files(karpathy: Path, split: str) -> list[Path]:
    if not karpathy.is_dir():
        return [karpathy]
    plain = karpathy / f"coco_{split}.txt"
    packed = plain.with_name(f"{plain.name}.gz")
    return [packed if packed.is_file() else plain]


def _image_ids(karpathy: Path, split: str, cache_dir: str | Path | None) -> np.ndarray:
    (path,) = _split_files(karpathy, split)
    if karpathy.is_dir():
        return _listed(path)
    features = Features(image_id=Value("int64"), split=Value("string"))
    images = table(_karpathy_rows, {"path": path}, features, [path], __file__, "karpathy", cache_dir)
    names = column(images, "split").to_numpy()
    return column(images, "image_id").to_numpy()[np.isin(names, KARPATHY[split])]


def _karpathy_rows(path: Path) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for entry in entries(path, "images"):
        image_id = once(field(entry, "cocoid", int, path), "cocoid", seen, path)
        yield {"image_id": image_id, "split": field(entry, "split", str, path)}


def _listed(path: Path) -> np.ndarray:
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else read_text(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadData(f"{path}: cut or damaged ({error}); fetch it anew") from error
    found = [re.search(r"([0-9]{1,18})\.jpg$", line) for line in text.split()]
    if not found or None in found:
        raise BadData(f"{path}: not a list of image names such as COCO_val2014_000000391895.jpg, one a line")
    return np.array([int(match[1]) for match in found if match])
