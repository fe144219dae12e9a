"""Measured batches on disk, so that a killed run goes on: `settings.json`, and one Parquet file for each batch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmapper.comparison.explained import Explained
from clipmapper.comparison.measure import Measured
from xai.files import replacing
from xai.metrics.protocols import DIRECTIONS

CURVE, FIGURE = "curve/", "figure/"  # how names of columns start


class Parts:
    """The batches of one comparison below `folder`; raises ValueError if those there are of another one."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.methods = folder, tuple(settings["methods"])
        described, plain = folder / "settings.json", json.loads(json.dumps(settings))
        if described.is_file():
            there = known(described)
            if not isinstance(there, dict):
                raise ValueError(f"{described} cannot be read: remove {folder}, or choose another --output")
            for name in plain.keys() | there.keys():
                if plain.get(name) != there.get(name):
                    raise ValueError(
                        f"{folder} holds a comparison with other {name}: remove it, or choose another --output"
                    )
        else:
            keep(described, plain)

    def path(self, batch: int) -> Path:
        return self.folder / f"part-{batch:05d}.parquet"

    def done(self, batch: int) -> bool:
        """Whether a batch is there whole: one that is cut short or damaged counts as not measured."""
        try:
            read(self.path(batch))
        except (OSError, pa.ArrowException):
            return False
        return True

    def write(self, batch: int, measured: Measured, explained: Explained) -> None:
        self._write(batch, table(measured, explained))

    def leave_out(self, batch: int) -> None:
        """A batch of which nothing can be measured."""
        self._write(batch, pa.table({}))

    def _write(self, batch: int, rows: pa.Table) -> None:
        with replacing(self.path(batch)) as temporary:
            pq.write_table(rows, temporary, write_page_checksum=True)


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A part, or some columns of it; raises pyarrow.ArrowException or OSError for a damaged one."""
    return pq.read_table(path, columns=columns, page_checksum_verification=True)


def known(path: Path) -> Any:
    """What a JSON file holds; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def keep(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value))


def table(measured: Measured, explained: Explained) -> pa.Table:
    """A row for each method and question, methods outside, with curves, figures and the relevance itself."""
    count = len(measured.methods)
    columns: dict[str, Any] = {name: values * count for name, values in measured.records.items()}
    questions = len(columns["row"]) // count
    columns["method"] = np.repeat(measured.methods, questions)
    columns["error"] = [measured.errors.get(name) for name in measured.methods for _ in range(questions)]
    for key, curves in measured.curves.items():
        for i, direction in enumerate(DIRECTIONS):
            columns[f"{CURVE}{key}/{direction}"] = list(curves[:, i].reshape(count * questions, -1))
    columns |= {FIGURE + key: values.ravel() for key, values in measured.figures.items()}
    relevances = explained.relevances.values()
    columns["patches"] = [row for r in relevances for row in r.map("image").detach().float().flatten(1).cpu().numpy()]
    spoken = [words for r in relevances for words in r.by_word("text")]
    columns["words"] = [[word for word, _ in words] for words in spoken]
    columns["word_scores"] = [[score for _, score in words] for words in spoken]
    return pa.table(columns)


def from_table(rows: pa.Table, methods: tuple[str, ...]) -> Measured:
    """What `table` was made of, without the relevance."""
    count = len(methods)
    questions = rows.num_rows // count
    curves: dict[str, list[np.ndarray]] = {}
    figures, records = {}, {}
    for name in rows.column_names:
        if name.startswith(CURVE):
            values = np.array(rows[name].to_pylist(), dtype=np.float32).reshape(count, questions, -1)
            curves.setdefault(name.removeprefix(CURVE).rpartition("/")[0], []).append(values)
        elif name.startswith(FIGURE):
            figures[name.removeprefix(FIGURE)] = rows[name].to_numpy().reshape(count, questions)
        elif name not in ("method", "error", "patches", "words", "word_scores"):
            records[name] = rows[name][:questions].to_pylist()
    errors = {
        name: error for name, error in zip(rows["method"].to_pylist(), rows["error"].to_pylist(), strict=True) if error
    }
    stacked = {key: np.stack(by_direction, axis=1) for key, by_direction in curves.items()}
    return Measured(methods, records, stacked, figures, errors)
