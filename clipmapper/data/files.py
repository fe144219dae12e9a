"""Annotation files of a data set: read entry by entry, checked, and kept as a memory-mapped table."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, NamedSplit
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

BOM = "\ufeff".encode()
DEEPEST = 100  # lists and objects in one another
ESCAPED = re.compile(rb"\\.", re.DOTALL)
NO_MARKS = bytes({*range(256)} - {*b'"[]{}'})


class MissingData(FileNotFoundError):
    """Files of a data set that are not there; the message lists every path looked at."""


class BadData(ValueError):
    """A data file that holds something else than expected; the message names file and entry."""


def require(paths: Sequence[Path], kind: str) -> None:
    """Raises MissingData with all `paths` unless every one is a file."""
    if not all(path.is_file() for path in paths):
        looked = "\n".join(f"  {path}: {'found' if path.is_file() else 'missing'}" for path in paths)
        raise MissingData(f"{kind} files are missing; download them or give another data root:\n{looked}")


def table(
    rows: Callable[..., Iterator[dict[str, Any]]],
    given: Mapping[str, Any],
    features: Features,
    files: Sequence[Path],
    code: str,
    split: str,
    cache_dir: str | Path | None,
) -> Dataset:
    """The rows of the generator `rows(**given)`, in an Arrow file that is made once, until one of `files` or `code` changes.

    `code` is the Python file that says how rows are read; `cache_dir` is by default the cache of `datasets`.
    """
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    sources = [Path(code).read_bytes(), Path(__file__).read_bytes()]
    try:
        return Dataset.from_generator(
            rows,
            features=features,
            cache_dir=str(cache_dir) if cache_dir else None,
            gen_kwargs=dict(given),
            split=NamedSplit(split.replace("-", "_")),
            fingerprint=Hasher.hash([stats, dict(given), sources]),
        )
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def entries(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects of the list `key`, one after the other: the official files do not fit into memory twice."""
    empty = True
    try:
        with path.open("rb") as file:
            file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
            for entry in ijson.items(_Shallow(path, file), f"{key}.item", use_float=True):
                empty = False
                yield entry
    except ijson.JSONError as error:
        raise BadData(f"{path}: truncated or not JSON; expected the official file, fetch it anew") from error
    if empty:
        raise BadData(f'{path}: holds no entries under "{key}"; expected the official file {{"{key}": [...], ...}}')


class _Shallow:
    """A JSON file that ends with BadData where it is nested deeply: the parser's memory grows with the depth squared."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._depth, self._quoted, self._escape = 0, False, b""

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        text = ESCAPED.sub(b"", self._escape + chunk)
        self._escape = text[-1:] if text.endswith(b"\\") else b""
        parts = text.translate(None, NO_MARKS).split(b'"')
        brackets = np.frombuffer(b"".join(parts[self._quoted :: 2]), dtype=np.uint8)
        self._quoted ^= len(parts) % 2 == 0
        depths = (
            self._depth + (ord("|") - (brackets.astype(np.int64) | 32)).cumsum()
        )  # of "{" 1, of "}" -1; of "[", "]" too
        if depths.max(initial=0) > DEEPEST:
            raise BadData(
                f"{self._path}: more than {DEEPEST} lists or objects in one another; fetch the official file anew"
            )
        self._depth = int(depths[-1]) if len(depths) else self._depth
        return chunk


def field(entry: Any, name: str, kind: type, path: Path) -> Any:
    """One value of an entry. Raises BadData unless it is there and of exactly that type."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise BadData(f"{path}: {name!r} is {value!r} in {str(entry)[:200]}; expected type {kind.__name__}")
    return value


def once(value: int, name: str, seen: set[int], path: Path) -> int:
    """The value, which joins `seen`. Raises BadData if it is there already."""
    if value in seen:
        raise BadData(f"{path}: {name} {value} is there twice; expected each once")
    seen.add(value)
    return value


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """One column as Arrow values, without a Python object a row."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def listing(folder: Path) -> list[str]:
    """Names in the folder; none if it is not there."""
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found]
    except FileNotFoundError:
        return []


def image_path(folder: str, image_id: int, renamed: Mapping[int, str]) -> str:
    """An image's path below the root, under its official name unless it has another."""
    return f"{folder}/{renamed.get(image_id) or official_name(folder, image_id)}"


def official_name(folder: str, image_id: int) -> str:
    return f"COCO_{folder}_{image_id:012d}.jpg"


def renamed_images(folder: Path) -> dict[int, str]:
    """File name of each image id whose file has a plainer name ("42.JPG", "000000000042.png") than the official one."""
    names = set(listing(folder))
    pattern = re.compile(rf"(?:COCO_{re.escape(folder.name)}_)?(\d+)\.(?i:jpe?g|png)")
    found = {int(match[1]): name for name in sorted(names) if (match := pattern.fullmatch(name))}
    return {image: name for image, name in found.items() if official_name(folder.name, image) not in names}


def missing_images(dataset: Dataset, root: str | Path) -> list[str]:
    """The images of a data set's rows that are not below the root, sorted; each folder is listed once."""
    wanted = set(column(dataset, "image").unique().to_pylist())
    folders = {os.path.dirname(path) for path in wanted}
    return sorted(wanted - {f"{folder}/{name}" for folder in folders for name in listing(Path(root) / folder)})
