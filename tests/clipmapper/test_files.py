"""Folders that can be written, before anything is computed."""

import sys
from pathlib import Path

import pytest

from clipmapper.commands import evaluate, train
from clipmapper.files import require_writable


def test_a_folder_is_neither_made_nor_filled(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--run.dir", "--data.cache"])
def test_training_refuses_a_folder_that_cannot_be_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setitem(sys.modules, "clipmapper.training.run", None)  # it draws Shapes and encodes images
    folders = {"--run.dir": tmp_path / "run", "--data.cache": tmp_path / "cache", option: tmp_path / "file" / "x"}
    words = [f"{name}={folder}" for name, folder in folders.items()]
    with pytest.raises(
        OSError, match=rf"{tmp_path}/file/x: .* in {tmp_path}/file \(Not a directory\); make it writable"
    ):
        train(["--config", "mapper_b_vqa_shapes", *words])


@pytest.mark.parametrize("words", [[], ["imagenet", "--data", "."]])
def test_evaluation_refuses_an_output_that_cannot_be_written_first(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        (OSError, SystemExit), match=rf"{tmp_path}/file/x: .*make it writable, or choose another folder"
    ):
        evaluate([*words, "--model", "shapes-b-vqa", "--output", str(tmp_path / "file" / "x")])
