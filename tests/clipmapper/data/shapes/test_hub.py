"""Shapes as a data set of the hub: the records are those of the official files, and the truth stands beside."""

import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard

from clipmapper.data.coco import read_captions
from clipmapper.data.files import MissingData
from clipmapper.data.hub import read_hub
from clipmapper.data.hub_captions import read_hub_captions
from clipmapper.data.official import FEATURES, read_official
from clipmapper.data.shapes import __main__ as command
from clipmapper.data.shapes import hub
from clipmapper.data.shapes.scene import SIDE
from clipmapper.data.shapes.truth import Truth


@pytest.fixture(scope="module")
def folder(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "shapes"
    hub.write_folder(shapes_root, folder)
    return folder


def plain(rows: Dataset) -> list[dict[str, Any]]:
    return [{name: row[name] for name in FEATURES if name != "image"} for row in rows]


@pytest.mark.parametrize(("split", "own"), [("train", "train"), ("validation", "val")])
def test_the_same_records_as_the_official_files(
    folder: Path, shapes_root: Path, tmp_path: Path, split: str, own: str
) -> None:
    official, read = read_official(shapes_root, own), read_hub(str(folder), split, {}, tmp_path)
    assert plain(read) == plain(official) and len(read) > 20
    assert read[5]["image"]["bytes"] == (shapes_root / official[5]["image"]).read_bytes()
    captions, own_captions = read_hub_captions(str(folder), split, {}, tmp_path), read_captions(shapes_root, own)
    said = sorted((row["image_id"], row["caption"]) for row in captions)
    assert said == sorted((row["image_id"], row["caption"]) for row in own_captions)


def test_the_truth_is_there(folder: Path, shapes_root: Path, tmp_path: Path) -> None:
    truth = Truth(shapes_root, "val2014")
    rows = load_dataset(str(folder), split="validation", cache_dir=str(tmp_path))
    assert any(row["deciding_words"] for row in rows) and any(row["deciding_boxes"] for row in rows)
    for row in rows.remove_columns("image"):
        spans = [(word["start"], word["stop"]) for word in row["deciding_words"]]
        assert spans == truth.words(row["question_id"])
        assert all(
            row["question"][slice(*span)] == w["word"] for span, w in zip(spans, row["deciding_words"], strict=True)
        )
        outlines = truth.outlines(row["question_id"])
        for box, polygon, corners in zip(row["deciding_boxes"], row["deciding_outlines"], outlines, strict=True):
            assert polygon == pytest.approx(corners.ravel().tolist(), abs=1e-6)
            (left, top), (right, bottom) = corners.min(0) * SIDE, corners.max(0) * SIDE
            assert box == pytest.approx([left, top, right - left, bottom - top], abs=0.02)


def test_its_card(folder: Path) -> None:
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert data["configs"][0]["data_files"] == [
        {"split": split, "path": f"data/{split}-*"} for split in ("train", "validation")
    ]
    assert data["license"] == "cc0-1.0" and "visual-question-answering" in data["task_categories"]


def test_it_is_uploaded_as_it_is_written(shapes_root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    class Api:
        """Keeps what the hub would get."""

        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> str:
            calls.append({"repo_id": repo_id, **options})
            return f"https://hub.test/datasets/{repo_id}"

        def upload_folder(self, folder_path: str, **options: Any) -> None:
            files = sorted(p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob("*") if p.is_file())
            calls.append({"files": files, "card": Path(folder_path, "README.md").read_text(), **options})

    monkeypatch.setattr(hub, "HfApi", Api)
    arguments = ["--root", str(shapes_root), "--train=20", "--val=9", "--test=0", "--questions=3"]
    monkeypatch.setattr(sys, "argv", ["shapes", *arguments, "--push_to_hub=you/shapes", "--private=true"])
    command.main()
    created, uploaded = calls
    assert created == {"repo_id": "you/shapes", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert uploaded["files"] == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert "--data.hub.name you/shapes" in uploaded["card"]


def test_what_does_nothing_is_refused(
    shapes_root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["shapes", "--root", str(tmp_path / "new"), "--private=true"])
    with pytest.raises(ValueError, match="--private does nothing without --push_to_hub"):
        command.main()
    with pytest.raises(FileExistsError, match="holds something already"):
        hub.write_folder(shapes_root, folder)
    with pytest.raises(MissingData, match="is not Shapes"):
        hub.write_folder(tmp_path, tmp_path / "out")
