"""Features of a frozen encoder, computed once and kept on disk as memory-mapped Arrow shards."""

import errno
import hashlib
import json
import struct
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float16
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clipmapper.data.files import BadData
from clipmapper.files import require_writable
from xai.files import replacing

T = TypeVar("T")
Batch = tuple[list[str], Tensor | None, dict[str, str]]  # keys, their inputs [B, ...], key -> why it has none

STALE_SECONDS = 24 * 3600
SEALED = b"CLIPseal"
SEAL = struct.Struct("<QQ8sI")  # first byte of the tokens and the one after the last, SEALED, checksum
SEEN_SECONDS = 180.0  # NFS shows a directory as it was up to a minute ago


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of features; `sound` says which rows are known to be as they were written."""

    path: Path
    keys: list[str]
    tokens: Float16[np.ndarray, "B N D"]  # on the memory map
    sums: np.ndarray | None  # of each row; None in files without a seal, of former versions
    sound: np.ndarray

    def row(self, row: int) -> Float16[np.ndarray, "N D"]:
        """A row's tokens, compared with its checksum when first read. Raises BadData, and sets a damaged file aside."""
        if not self.sound[row]:
            if self.sums is not None and checksum(self.keys[row], self.tokens[row]) != self.sums[row]:
                raise BadData(f"{self.path}: the features of '{self.keys[row]}' are damaged; {set_aside(self.path)}")
            self.sound[row] = True
        return self.tokens[row]


class FeatureCache:
    """Tokens [N, D] by key, in float16, under `root/<hash of identity>`.

    `identity` is whatever the features depend on: model, weights, preprocessing. Another identity is another folder.
    Several processes may read and build at once. Pickles as a path; a copy opens the shards when it first reads.
    """

    def __init__(self, root: str | Path, identity: Mapping[str, str | int]) -> None:
        text = json.dumps(dict(identity), sort_keys=True, indent=2)
        self.folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(self.folder)
        if not (self.folder / "identity.json").exists():
            with replacing(self.folder / "identity.json") as temporary:
                temporary.write_text(text)
        self._forget()
        self._scan()

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without features, in the order given; sees what other processes have finished meanwhile."""
        self._scan()
        return [key for key in keys if key not in self._index]

    def read(self, keys: list[str]) -> Float16[Tensor, "B N D"]:
        """Features in the order asked, repeats allowed. KeyError for a key never built, BadData for damaged ones."""
        if not self._seen:
            self._scan()
        out = np.empty((len(keys), *(self._shape or (0, 0))), np.float16)
        for i, key in enumerate(keys):
            if key not in self._index:
                raise KeyError(f"no features of '{key}' in {self.folder}: pass it to FeatureCache.build first")
            shard, row = self._index[key]
            out[i] = shard.row(row)
        return torch.from_numpy(out)

    def build(
        self,
        sources: Mapping[str, T],
        load: Callable[[T], Tensor],
        encode: Callable[[Tensor], Float[Tensor, "B N D"]],
        *,
        batch_size: int = 64,
        shard_size: int = 1024,
        num_workers: int = 4,
        bad: tuple[type[Exception], ...] = (),
        progress: bool = True,
    ) -> dict[str, str]:
        """Encode what is missing and return the sources that raised one of `bad`: key -> message.

        `load` makes one input [...] in a worker process, `encode` a batch of them [B, ...] here. A shard is written
        as soon as it has `shard_size` rows (and the rest of the batch). OSError if the disk is full or cannot be written.
        """
        todo = self.missing(sources)
        if todo:
            require_writable(self.folder)
        failed: dict[str, str] = {}
        keys: list[str] = []
        parts: list[Tensor] = []
        rows_left = len(todo)
        loading = _Loading([(key, sources[key]) for key in todo], load, bad)
        batches = DataLoader(loading, batch_size, num_workers=num_workers, collate_fn=_collate)
        with (
            tqdm(total=len(todo), desc="features", unit="img", disable=not (todo and progress)) as bar,
            torch.no_grad(),
        ):
            for names, inputs, failures in batches:
                failed |= failures
                if inputs is not None:
                    keys += names
                    parts.append(_as_half(encode(inputs), names))
                if len(keys) >= shard_size:
                    self._append(keys, parts, rows_left)
                    rows_left -= len(keys)
                    keys, parts = [], []
                bar.update(len(names) + len(failures))
        if keys:
            self._append(keys, parts, rows_left)
        return failed

    def wait_for(self, keys: Collection[str], seconds: float = SEEN_SECONDS) -> None:
        """Until the features of all `keys`, which other processes have written, are seen here. OSError if they are not."""
        deadline = time.monotonic() + seconds
        while absent := self.missing(keys):
            if time.monotonic() > deadline:
                raise OSError(
                    f"{len(absent)} of {len(keys)} features that other processes have written are not in {self.folder}: "
                    "put data.cache on a file system that all machines share"
                )
            time.sleep(min(1.0, seconds / 10))

    def _append(self, keys: list[str], parts: list[Tensor], rows_left: int) -> None:
        """Write one shard; `rows_left`, this one's included, tell the user of a full disk how much is needed."""
        tokens = torch.cat(parts)
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        self._check_shape(tokens.shape[1:], path)
        try:
            _write_shard(path, keys, tokens.numpy())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            needed = rows_left * tokens[0].nbytes
            message = (
                f"disk full: {self.folder} needs about {needed} bytes more. Free them, or put the cache on another "
                "disk; finished shards stay valid and the same command continues from them"
            )
            raise OSError(error.errno, message) from error
        self._scan()

    def _forget(self) -> None:
        self._seen: set[str] = set()
        self._index: dict[str, tuple[Shard, int]] = {}  # key -> its shard and row
        self._shape: tuple[int, ...] | None = None

    def _scan(self) -> None:
        """Open the shards not seen before."""
        for path in sorted(self.folder.glob("*.arrow")):
            if path.name in self._seen:
                continue
            try:
                shard = _open_shard(path)
            except (
                pa.ArrowException,
                ValueError,
                LookupError,
                TypeError,
            ) as error:  # also what a flipped bit makes of a file
                warnings.warn(f"{path} cannot be read ({error}); {set_aside(path)}", stacklevel=3)
                continue
            self._check_shape(shard.tokens.shape[1:], path)
            self._seen.add(path.name)
            for row, key in enumerate(shard.keys):
                self._index.setdefault(key, (shard, row))

    def _check_shape(self, shape: tuple[int, ...], path: Path) -> None:
        if self._shape not in (None, shape):
            raise ValueError(
                f"{path}: features {tuple(shape)} among features {self._shape} of the same identity. "
                f"Put what changed into the identity, or delete {self.folder}"
            )
        self._shape = tuple(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder = state["folder"]
        self._forget()


class _Loading(Dataset):
    """(key, input or the message of a `bad` exception)."""

    def __init__(self, items: list[tuple[str, Any]], load: Callable[[Any], Tensor], bad: tuple) -> None:
        self.items, self.load, self.bad = items, load, bad

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[str, Tensor | str]:
        key, source = self.items[i]
        try:
            return key, self.load(source)
        except self.bad as error:
            return key, str(error) or type(error).__name__


def _collate(samples: list[tuple[str, Tensor | str]]) -> Batch:
    loaded = {key: value for key, value in samples if isinstance(value, Tensor)}
    failed = {key: value for key, value in samples if isinstance(value, str)}
    return list(loaded), torch.stack(list(loaded.values())) if loaded else None, failed


def _as_half(tokens: Tensor, keys: list[str]) -> Float16[Tensor, "B N D"]:
    if tokens.ndim != 3 or len(tokens) != len(keys):
        raise ValueError(f"encode: expected [{len(keys)}, N, D] tokens, got {list(tokens.shape)}")
    half = tokens.to("cpu", torch.float16)
    lost = ~half.isfinite().flatten(1).all(1)
    if lost.any():
        raise ValueError(f"encode: tokens of '{keys[int(lost.int().argmax())]}' are not finite in float16")
    return half


def checksum(key: str, tokens: Float16[np.ndarray, "N D"]) -> int:
    return zlib.crc32(np.ascontiguousarray(tokens).data, zlib.crc32(key.encode()))


def set_aside(path: Path) -> str:
    """Renames a damaged shard, unless another process has; returns what becomes of its features."""
    with suppress(FileNotFoundError):
        path.rename(f"{path}.corrupt")
    return "renamed to *.corrupt; the next start builds its features again"


def _write_shard(path: Path, keys: list[str], tokens: Float16[np.ndarray, "B N D"]) -> None:
    _, n, d = tokens.shape
    sums = [checksum(key, row) for key, row in zip(keys, tokens, strict=True)]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), n * d)
    columns = [pa.array(keys, pa.string()), flat, pa.array(sums, pa.uint32())]
    batch = pa.record_batch(columns, names=["key", "tokens", "crc32"]).replace_schema_metadata(
        {"N": str(n), "D": str(d)}
    )

    with replacing(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        seal = _seal(pa.memory_map(str(temporary)).read_buffer())
        with temporary.open("ab") as appended:
            appended.write(seal)


def _seal(content: pa.Buffer) -> bytes:
    """Returns the end of an Arrow file: where its tokens are, and the checksum of all the rest, by which Arrow finds its way."""
    tokens = pa.ipc.open_file(content).get_batch(0).column("tokens").flatten().buffers()[1]
    start = tokens.address - content.address
    place = SEAL.pack(start, start + tokens.size, SEALED, 0)[:-4]
    return place + zlib.crc32(place, _checksum_around(content, start, start + tokens.size)).to_bytes(4, "little")


def _checksum_around(content: pa.Buffer, start: int, stop: int) -> int:
    return zlib.crc32(memoryview(content)[stop:], zlib.crc32(memoryview(content)[:start]))


def _open_shard(path: Path) -> Shard:
    """With a view of the tokens on the memory map: no token is read. Raises ValueError or Arrow's errors for a damaged file."""
    whole = pa.memory_map(str(path)).read_buffer()
    content, seal = whole[: -SEAL.size], whole[-SEAL.size :]
    sealed = len(whole) > SEAL.size and SEALED in seal.to_pybytes()
    if sealed:
        start, stop, _, crc = SEAL.unpack(seal)
        if zlib.crc32(memoryview(seal)[:-4], _checksum_around(content, start, stop)) != crc:
            raise ValueError("its checksum is not that of its content")
    batch = pa.ipc.open_file(content if sealed else whole).get_batch(0)
    n, d = (int(batch.schema.metadata[name]) for name in (b"N", b"D"))
    tokens = batch.column("tokens").flatten().to_numpy(zero_copy_only=True).reshape(-1, n, d)
    sums = batch.column("crc32").to_numpy() if sealed else None
    return Shard(path, batch.column("key").to_pylist(), tokens, sums, np.zeros(len(tokens), dtype=bool))


def _remove_stale(folder: Path) -> None:
    """Younger temporary files may belong to a process that still writes."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                path.unlink()
