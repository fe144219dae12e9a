"""How errors become messages."""

from pathlib import Path

import numpy as np
import pytest

from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.files import require
from clipmapper.errors import messages, unknown
from xai.recording.assemble import RecordingError


def test_an_error_raised_to_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: VQA files are missing"), messages():
        require([tmp_path / "questions.json"], "VQA")
    with pytest.raises(SystemExit, match=r"^error: module 'x' computed nothing"), messages():
        raise RecordingError("module 'x' computed nothing")  # of a class of ours, wherever it is raised


def test_a_file_that_a_line_of_ours_opens_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*answers\.json"), messages():
        AnswerVocabulary.from_file(tmp_path / "answers.json")


def test_a_bug_keeps_its_traceback_and_says_what_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught, messages(tmp_path):
        np.zeros(3).reshape(2)
    assert caught.value.__notes__ == [f"What was written before this error lies in {tmp_path}"]
    with pytest.raises(KeyError) as missing, messages(tmp_path / "nothing"):
        {}["key"]
    assert not hasattr(missing.value, "__notes__")


def test_an_unknown_name_has_the_nearest_beside_it() -> None:
    assert str(unknown("method", "wraa", ["wra", "rollout"])) == "unknown method 'wraa'; did you mean 'wra'?"
