"""How errors become messages, and the name that is suggested."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.files import require
from clipmapper.errors import messages, nearest, told, unknown
from xai.recording.assemble import RecordingError


def test_an_error_raised_to_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: VQA files are missing"), messages():
        require([tmp_path / "questions.json"], "VQA")
    with pytest.raises(SystemExit, match=r"^error: module 'x' computed nothing"), messages():
        raise RecordingError("module 'x' computed nothing")  # of a class of ours, wherever it is raised


def test_a_file_that_a_line_of_ours_opens_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*answers\.json"), messages():
        AnswerVocabulary.from_file(tmp_path / "answers.json")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_nobody_may_write_is_one_line(number: int) -> None:
    with pytest.raises(SystemExit, match=r"^error: /there/x: .*; change its rights, or name another place"), messages():
        denied(number)


def denied(number: int) -> None:
    """As pathlib and other libraries raise it: on no line of ours."""
    exec("raise OSError(number, os.strerror(number), '/there/x')", {"number": number, "os": os})


def test_a_bug_keeps_its_traceback_and_says_what_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught, messages(tmp_path):
        np.zeros(3).reshape(2)
    assert caught.value.__notes__ == [f"What was written before this error lies in {tmp_path}"]
    with pytest.raises(KeyError) as missing, messages(tmp_path / "nothing"):
        {}["key"]
    assert not hasattr(missing.value, "__notes__")


@pytest.fixture
def default_signals() -> Iterator[None]:
    """As a program starts: a shell's background jobs ignore SIGINT, and a Trainer that fails may leave its own handler."""
    default = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in default.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("trainer", [False, True])
def test_a_signal_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    default_signals: None,
    number: signal.Signals,
    code: int,
    trainer: bool,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, messages(tmp_path):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            sys.exit(1) if trainer else None  # as Lightning does
            raise
    assert left.value.code == code and signal.getsignal(signal.SIGTERM) == before
    assert (
        capsys.readouterr().err
        == f"\n{number.name}: stopped; what was written lies in {tmp_path}; start it again to go on\n"
    )


def test_whatever_a_library_makes_of_a_signal_is_one_line(
    capsys: pytest.CaptureFixture[str], default_signals: None
) -> None:
    with pytest.raises(SystemExit) as left, messages(), messages():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AttributeError("module 'numpy' has no attribute 'minimum'") from None
    assert left.value.code == 130 and capsys.readouterr().err == "\nSIGINT: stopped; start it again to go on\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_an_import_is_one_line(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "slow.py").write_text(
        f"import signal\ntry:\n    signal.raise_signal({int(number)})\nexcept BaseException: pass"
    )
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from clipmapper.errors import messages\nwith messages():\n    import slow\n    print('on')"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    expected = f"\n{number.name}: stopped; start it again to go on\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", expected)


@pytest.mark.parametrize("code", [0, 2, "error: this"])
def test_leaving_is_no_signal(code: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, messages():
        sys.exit(code)  # type: ignore[arg-type]
    assert left.value.code == code and capsys.readouterr().err == ""


def test_an_unknown_name_has_the_nearest_beside_it() -> None:
    assert str(unknown("method", "wraa", ["wra", "rollout"])) == "unknown method 'wraa'; did you mean 'wra'?"


KNOWN = ("optimizer.lr", "optimizer.warmup_steps", "trainer.gradient_clip_val", "data.batch_size", "yes", "model.read")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("optimizer.learning_rate", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("model.lr", "optimizer.lr"),
        ("data.bs", "data.batch_size"),
        ("optimizer.warmup", "optimizer.warmup_steps"),
        ("trainer.clip_gradient", "trainer.gradient_clip_val"),
        ("yess", "yes"),
        ("zzz", None),
    ],
)
def test_names_are_compared_by_letters_words_and_initials(name: str, expected: str | None) -> None:
    assert nearest(name, iter(KNOWN)) == expected


def test_of_nothing_nothing_is_near() -> None:
    assert nearest("yes", ()) is None


class Failing(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> torch.Tensor:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ValueError("shard.arrow: row 3 is damaged\nbuild it again") from cause


@pytest.mark.parametrize("workers", [0, 1])
def test_the_words_of_an_error_of_another_process(workers: int) -> None:
    with pytest.raises(ValueError) as caught:
        next(iter(DataLoader(Failing(), num_workers=workers)))
    assert told(caught.value) == "shard.arrow: row 3 is damaged\nbuild it again"
