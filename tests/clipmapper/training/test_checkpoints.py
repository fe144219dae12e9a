"""Checkpoint files: whole or not at all, never executed, and refused where they do not fit."""

import errno
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmapper.cli import Settings
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.checkpoints import FileCheckpointIO
from clipmapper.training.run import run

from ...commands import FORKS

MakeSettings = Callable[..., Settings]
CONTENT = {"weights": torch.arange(5.0), "clipmapper": {"format": 1, "answers": ["yes", "no"]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def test_there_and_back(path: Path) -> None:
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    content = read_checkpoint(path)
    assert content["weights"].equal(CONTENT["weights"]) and content["clipmapper"] == CONTENT["clipmapper"]
    assert list(path.parent.iterdir()) == [path]


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torch_on_a_full_disk(*_: Any, **__: Any) -> None:
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("os.fsync", full_disk),
        ("torch.save", full_disk),
        ("torch.save", torch_on_a_full_disk),
        ("os.replace", full_disk),
    ],
)
def test_full_disk_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str, failure: Callable[..., None]
) -> None:
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(function, failure)
        with pytest.raises(OSError, match=r"last\.ckpt could not be written .*: free space, then --run\.resume last"):
            FileCheckpointIO().save_checkpoint({"other": torch.zeros(9)}, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def write_with_little_space(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        FileCheckpointIO().save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    except OSError as error:
        (path.parent.parent / "told").write_text(str(error))


def test_real_write_error(path: Path) -> None:
    """A limit on the size of files is as near as one gets to a full disk without one."""
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    process = FORKS.Process(target=write_with_little_space, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0 and "last.ckpt could not be written" in (path.parent.parent / "told").read_text()
    assert read_checkpoint(path)["weights"].equal(CONTENT["weights"]) and list(path.parent.iterdir()) == [path]


class Trap:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: Path(file).write_bytes(pickle.dumps(content, 2))])
def test_a_pickled_object_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    save({"clipmapper": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match=r"trap\.ckpt is not a readable checkpoint, or holds more than tensors"):
        read_checkpoint(tmp_path / "trap.ckpt")
    assert not (tmp_path / "executed").exists()


def test_truncated_file_is_refused(path: Path) -> None:
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    for size in (0, 10, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint"):
            read_checkpoint(path)


def test_a_flipped_bit_is_found(path: Path) -> None:
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    content = bytearray(path.read_bytes())
    content[content.index(CONTENT["weights"].numpy().tobytes()) + 4] ^= 1  # type: ignore[attr-defined]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: the checksum of .*data/0 in it is another"):
        read_checkpoint(path)


def test_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt is not a checkpoint: it holds a list"):
        read_checkpoint(tmp_path / "list.pt")


def test_missing_file_names_those_that_are_there(path: Path) -> None:
    FileCheckpointIO().save_checkpoint(CONTENT, path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*besst\.ckpt; there are .*last\.ckpt"):
        read_checkpoint(path.with_name("besst.ckpt"))


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def refusal(settings: Settings) -> str:
    """What a run leaves with, which must not change a file."""
    root = settings.run.dir.parent
    before = files(root)
    with pytest.raises(SystemExit) as left:
        run(settings)
    assert files(root) == before
    return str(left.value)


def test_unfit_checkpoints_are_refused_and_nothing_is_touched(
    settings: MakeSettings, finished: Path, tmp_path: Path
) -> None:
    resume = f"--run.resume={finished}"
    for name in ("run", "new"):
        said = refusal(settings(name, resume, "--model.mapper=a"))
        assert said == f"error: {finished}: model.mapper is 'b' there and 'a' here"
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    said = refusal(settings("run", resume, f"--data.vocabulary={tmp_path / 'answers.json'}"))
    assert f"{finished} knows" in said and "this run's data has 2" in said

    spoilt = read_checkpoint(finished)
    bias = spoilt["state_dict"]["model.image_projection.bias"]
    whole, bias[0] = bias[0].item(), float("nan")
    torch.save(spoilt, finished)
    assert f"{finished}: weights are NaN or infinite: model.image_projection.bias" in refusal(settings("run", resume))
    bias[0] = whole
    spoilt["clipmapper"]["clip_fingerprint"] = "0" * 16
    torch.save(spoilt, finished)
    assert f"{finished} was trained over another CLIP" in refusal(settings("run", resume))
    torch.save({"clipmapper": Settings}, finished)
    assert f"{finished} is not a readable checkpoint" in refusal(settings("run", resume))
    finished.write_bytes(finished.read_bytes()[:50])
    assert f"{finished} is not a readable checkpoint" in refusal(settings("run", "--run.resume=last"))
    assert "no checkpoint" in refusal(settings("run", f"--run.resume={tmp_path / 'none.ckpt'}"))


def test_a_run_is_not_overwritten(settings: MakeSettings, finished: Path) -> None:
    said = refusal(settings("run"))
    assert "holds a run already: continue it with --run.resume last" in said


def test_full_disk_stops_with_advice_and_the_old_checkpoint_stays(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save, calls = torch.save, []

    def full_the_second_time(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(torch, "save", full_the_second_time)
        run(settings("run"))
    assert "last.ckpt could not be written" in str(left.value) and "--run.resume last" in str(left.value)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 3
    assert list(last.parent.iterdir()) == [last]
    run(settings("run", "--run.resume=last"))
    assert read_checkpoint(last)["global_step"] == 16


def without(content: dict[str, Any], *path: str, **change: Any) -> dict[str, Any]:
    """The content without an entry, or with others in its place."""
    name, *rest = path
    inner = without(content[name], *rest, **change) if rest else change or None
    kept = {key: value for key, value in content.items() if key != name}
    return kept if inner is None else {**kept, name: inner if rest else change["to"]}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("clipmapper", "answers"), {}),
        (("clipmapper", "answers"), {"to": 3.5}),
        (("clipmapper", "format"), {"to": torch.ones(2)}),
        (("clipmapper", "extra", "optimizer", "lr"), {"to": torch.ones(2)}),
        (("clipmapper", "extra"), {}),
        (("clipmapper", "extra"), {"to": {"optimizer": 3}}),
        (("clipmapper", "model"), {"to": "a"}),
        (("clipmapper", "model", "width"), {"to": "16"}),
        (("clipmapper", "model", "width"), {"to": 2**40}),
        (("clipmapper", "clip_fingerprint"), {"to": None}),
        (("clipmapper", "tokens"), {"to": "x"}),
        (("state_dict",), {}),
        (("state_dict",), {"to": [1]}),
        (("state_dict", "model.image_projection.bias"), {"to": 1.5}),
        (("state_dict", "model.image_projection.bias"), {}),
        (("state_dict", "model.image_projection.weight"), {"to": torch.tensor(1.0)}),
    ],
)
def test_a_checkpoint_of_other_types_is_named(finished: Path, path: tuple[str, ...], change: dict[str, Any]) -> None:
    torch.save(without(read_checkpoint(finished), *path, **change), finished)
    with pytest.raises(ValueError, match=r"\.ckpt"):
        CLIPMapper.from_pretrained(finished)
