"""What W&B has written offline, read back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7  # of the file's log format (LevelDB's): blocks of chunks; crc, length, kind of each chunk
FIRST = 7  # bytes of the file's own header


def records(folder: Path, patience: float = 60) -> list[Record]:
    """All records of the one run in a folder `offline-run-...`, once it has ended: W&B writes on after `finish` returns."""
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + patience
    while True:
        found = [Record.FromString(part) for part in _parts(path.read_bytes())]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{path}: no end of the run after {patience} s"
        time.sleep(0.05)


def _parts(content: bytes) -> Iterator[bytes]:
    place, whole = FIRST, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + HEADER + length > len(content):
            return  # still being written
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield whole
            whole = b""


def runs(folder: Path) -> list[Path]:
    """The runs logged offline into a folder, in the order of their start."""
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime_ns)


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = [record.history for record in records(folder) if record.HasField("history")]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows]


def values(folders: list[Path], name: str) -> list[tuple[int, Any]]:
    """Step and value of each time that a metric was logged, over all parts of a run."""
    rows = [row for folder in folders for row in history(folder)]
    return [(row["trainer/global_step"], row[name]) for row in rows if name in row]


def config(folder: Path) -> dict[str, Any]:
    """The settings that were logged."""
    found: dict[str, Any] = {}
    for record in records(folder):
        for part in (record.run.config, record.config):
            for item in part.update:
                found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def metrics(folder: Path) -> dict[str, Any]:
    """How metrics were defined, by name."""
    return {record.metric.name: record.metric for record in records(folder) if record.HasField("metric")}


def artifacts(folder: Path) -> list[Any]:
    """The artifacts that were logged."""
    found = [record.request.log_artifact.artifact for record in records(folder) if record.HasField("request")]
    return found + [record.artifact for record in records(folder) if record.HasField("artifact")]


def run_record(folder: Path) -> Any:
    """The run's own description."""
    return next(record.run for record in records(folder) if record.HasField("run"))


def summary(folder: Path) -> dict[str, Any]:
    """What stands beside the run at its end, of what was put there by name."""
    return {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records(folder)
        if record.HasField("summary")
        for item in record.summary.update
    }
