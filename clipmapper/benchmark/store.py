"""Batches on disk: one long table of values, the samples' own columns beside it; a killed run goes on from them.

`values-00000.parquet` has the columns sample, method, metric, step and value; `samples-00000.parquet` a row for each sample;
`gallery-00000.parquet` the explanations that the report shows; `details-00000.parquet` what else the task keeps. Their
checksums are in `checksums-00000.json`, which is written last: a batch with that file is whole.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmapper.benchmark.measure import BatchResult
from xai import files
from xai.files import checksum, replacing
from xai.report.data import Explanation, Step

SCHEMA = pa.schema(
    [
        ("sample", pa.int64()),
        ("method", pa.dictionary(pa.int32(), pa.string())),
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.float32()),  # the share removed, of a curve; null where a metric is one number
        ("value", pa.float32()),
    ]
)
ERRORS = b"errors"  # in the metadata of values: why methods failed
KINDS = ("samples", "gallery", "details", "values")


@dataclass(frozen=True, eq=False)
class Results:
    """All batches together.

    Attributes:
        rows: names of the table's rows.
        samples: the samples' columns, an entry each.
        values: by metric [rows, samples], or [rows, samples, steps] of a curve; NaN where undefined or not measured.
        errors: why methods failed, by name.
        details: what else the task keeps, None if nothing.
    """

    rows: tuple[str, ...]
    samples: dict[str, list[Any]]
    values: dict[str, np.ndarray]
    errors: dict[str, str]
    details: Any = None


class Store:
    """The batches of one benchmark below `folder`. Raises ValueError if those there are of another one."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        described, plain = folder / "settings.json", json.loads(json.dumps(key))
        if not described.is_file():
            write(described, plain)
            return
        before = read_json(described)
        if not isinstance(before, dict):
            raise ValueError(f"{described} cannot be read: remove {folder}, or choose another --output")
        for name in plain.keys() | before.keys():
            if plain.get(name) != before.get(name):
                raise ValueError(f"{folder} holds a benchmark with other {name}: remove it, or choose another --output")

    def path(self, batch: int, kind: str) -> Path:
        return self.folder / f"{kind}-{batch:05d}.parquet"

    def complete(self, batch: int) -> bool:
        """Returns whether a batch is there whole: one with a damaged file counts as not measured."""
        sums = read_json(self._sums(batch))
        if not isinstance(sums, dict) or "values" not in sums:
            return False
        return all(
            path.is_file() and checksum(path) == sums.get(kind) if kind in sums else not path.exists()
            for kind, path in ((kind, self.path(batch, kind)) for kind in KINDS)
        )

    def add(self, batch: int, result: BatchResult, rows: Sequence[str], steps: Mapping[str, Sequence[float]]) -> None:
        """Writes a batch; `steps` are the shares of each curve's steps, by the first part of its name."""
        tables = {"samples": pa.table({"sample": result.ids, **result.samples})}
        if result.gallery:
            tables["gallery"] = gallery_table(result.gallery)
        if result.details is not None:
            tables["details"] = result.details
        facts = {ERRORS: json.dumps(result.errors)}
        tables["values"] = long_table(result, rows, steps).replace_schema_metadata(facts)
        self._write(batch, tables)

    def leave_out(self, batch: int) -> None:
        """Notes a batch of which nothing can be measured."""
        empty = SCHEMA.empty_table().replace_schema_metadata({ERRORS: "{}"})
        self._write(batch, {"values": empty})

    def results(self, batches: int, rows: Sequence[str]) -> Results:
        """Returns all batches together; raises ValueError if none has a sample."""
        tables = [read(self.path(i, "values")) for i in range(batches)]
        errors: dict[str, str] = {}
        for table in tables:
            errors = json.loads(table.schema.metadata[ERRORS]) | errors
        parts = {
            kind: [read(path) for i in range(batches) if (path := self.path(i, kind)).is_file()] for kind in KINDS[:-1]
        }
        if not parts["samples"]:
            raise ValueError("no sample can be read; are the images still there?")
        samples = pa.concat_tables(parts["samples"], promote_options="permissive")
        values = arrays(
            pa.concat_tables([t.replace_schema_metadata(None) for t in tables]), rows, samples["sample"].to_pylist()
        )
        details = pa.concat_tables(parts["details"]) if parts["details"] else None
        return Results(tuple(rows), samples.to_pydict(), values, errors, details)

    def gallery(self, batches: int) -> dict[int, dict[str, Explanation]]:
        """Returns by sample the explanations that were kept, by method."""
        shown: dict[int, dict[str, Explanation]] = {}
        for path in (self.path(i, "gallery") for i in range(batches)):
            for entry in read(path).to_pylist() if path.is_file() else []:
                shown.setdefault(entry["sample"], {})[entry["method"]] = explanation(json.loads(entry["explanation"]))
        return shown

    def long(self, batches: int) -> pa.Table:
        """Returns the long table of all batches."""
        return pa.concat_tables([read(self.path(i, "values")).replace_schema_metadata(None) for i in range(batches)])

    def _write(self, batch: int, tables: Mapping[str, pa.Table]) -> None:
        self._sums(batch).unlink(missing_ok=True)
        for kind in KINDS:
            self.path(batch, kind).unlink(missing_ok=True)  # of a former attempt
        for kind, table in tables.items():
            save_table(self.path(batch, kind), table)
        write(self._sums(batch), {kind: checksum(self.path(batch, kind)) for kind in tables})

    def _sums(self, batch: int) -> Path:
        return self.path(batch, "checksums").with_suffix(".json")


def long_table(result: BatchResult, rows: Sequence[str], steps: Mapping[str, Sequence[float]]) -> pa.Table:
    """Returns a row for each metric, method, sample and step."""
    samples, methods, parts = np.array(result.ids), np.arange(len(rows), dtype=np.int32), []
    for number, (metric, values) in enumerate(result.values.items()):
        shares = np.array(steps[metric.partition("/")[0]] if values.ndim == 3 else [np.nan], dtype=np.float32)
        shape = (len(rows), len(samples), len(shares))
        if values.reshape(len(rows), len(samples), -1).shape != shape:
            raise ValueError(f"{metric} has values of shape {values.shape}, expected {shape}")
        at = np.broadcast_to(methods[:, None, None], shape).ravel(), np.broadcast_to(samples[:, None], shape).ravel()
        share = pa.array(np.broadcast_to(shares, shape).ravel(), from_pandas=True)
        flat = pa.array(values.astype(np.float32).ravel())
        parts.append((at[0], at[1], np.full(len(flat), number, np.int32), share, flat))
    if not parts:
        return SCHEMA.empty_table()
    method, sample, key = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 2))
    named = pa.DictionaryArray.from_arrays(method, pa.array(rows, pa.string()))
    keys = pa.DictionaryArray.from_arrays(key, pa.array(list(result.values), pa.string()))
    step, value = (pa.chunked_array([part[i] for part in parts]) for i in (3, 4))
    return pa.table({"sample": sample, "method": named, "metric": keys, "step": step, "value": value}, schema=SCHEMA)


def arrays(table: pa.Table, rows: Sequence[str], samples: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns by metric the values [rows, samples], or [rows, samples, steps], of a long table."""
    frame = table.to_pandas()
    line = frame["method"].map({name: i for i, name in enumerate(rows)}).to_numpy(dtype=np.int64)
    column = frame["sample"].map({key: i for i, key in enumerate(samples)}).to_numpy(dtype=np.int64)
    step, value = frame["step"].to_numpy(), frame["value"].to_numpy()
    by_metric: dict[str, np.ndarray] = {}
    by_group: Mapping[Any, Any] = frame.groupby("metric", sort=False, observed=True).indices
    for metric, places in by_group.items():
        shares, at = np.unique(step[places], return_inverse=True)  # of a metric that is one number NaN alone
        array = np.full((len(rows), len(samples), len(shares)), np.nan)
        array[line[places], column[places], at] = value[places]
        by_metric[str(metric)] = array[..., 0] if np.isnan(shares).any() else array
    return by_metric


def gallery_table(gallery: Mapping[int, Mapping[str, Explanation]]) -> pa.Table:
    entries = [(key, name, json.dumps(asdict(e))) for key, by in gallery.items() for name, e in by.items()]
    columns: Iterable[Any] = zip(*entries, strict=True) if entries else ([], [], [])
    return pa.table(dict(zip(("sample", "method", "explanation"), map(list, columns), strict=True)))


def explanation(plain: Mapping[str, Any]) -> Explanation:
    """Returns what `asdict`, written as JSON, was made of."""
    steps = tuple(Step(grid(step["patches"]), tuple(step["scores"])) for step in plain["steps"])
    words = tuple((word, score) for word, score in plain["words"])
    return Explanation(grid(plain["patches"]), words, plain["image_share"], steps)


def grid(patches: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, patches))


def read(path: Path) -> pa.Table:
    """Reads a file with its checksums; raises pyarrow.ArrowException or OSError for a damaged one."""
    return pq.read_table(path, page_checksum_verification=True)


def save_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file, there whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds; None if it is missing or damaged."""
    try:
        return files.read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def write(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value))
