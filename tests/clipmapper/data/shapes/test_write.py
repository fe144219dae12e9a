"""The written data set: official formats, ids, truth, the same bytes again, whole or not at all."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from clipmapper.config import ShapesConfig
from clipmapper.data.files import missing_images
from clipmapper.data.official import read_official
from clipmapper.data.shapes import write
from clipmapper.data.shapes.language import PLACES
from clipmapper.data.shapes.render import mask
from clipmapper.data.shapes.scene import COLOURS, SHAPES, Scene, sample_scene
from clipmapper.data.shapes.write import write_shapes
from clipmapper.metrics.caption_truth import scenes_of

CONFIG = ShapesConfig(train=14, val=6, test=3, questions=5, seed=4)
FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015"}
QUESTION_KEYS = {"info", "task_type", "data_type", "license", "data_subtype", "questions"}
ANNOTATION_KEYS = {"info", "data_type", "license", "data_subtype", "annotations"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "parent" / "root"
    write_shapes(folder, CONFIG)
    return folder


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def questions(root: Path, split: str) -> list[dict[str, Any]]:
    return load(root / f"v2_OpenEnded_mscoco_{FOLDERS[split]}_questions.json")["questions"]


def annotations(root: Path, split: str) -> list[dict[str, Any]]:
    return load(root / f"v2_mscoco_{FOLDERS[split]}_annotations.json")["annotations"]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def scene_of(image_id: int) -> Scene:
    """Image ids count from 1 in train, from 250 001 in val, from 500 001 in test."""
    split, index = divmod(image_id - 1, 250_000)
    return sample_scene((CONFIG.seed, split, index))


def test_file_names_are_the_official_ones(root: Path) -> None:
    expected = {"shapes.json"}
    for split, first, scenes in (("train", 1, 14), ("val", 250_001, 6), ("test", 500_001, 3)):
        folder = FOLDERS[split]
        expected.add(f"v2_OpenEnded_mscoco_{folder}_questions.json")
        expected |= {f"{folder}/COCO_{folder}_{i:012d}.jpg" for i in range(first, first + scenes)}
        if split != "test":
            expected.add(f"v2_mscoco_{folder}_annotations.json")
            expected |= {f"annotations/{kind}_{folder}.json" for kind in ("instances", "captions", "shapes_truth")}
    assert set(contents(root)) == expected


@pytest.mark.parametrize("split", FOLDERS)
def test_question_files_have_the_official_keys(root: Path, split: str) -> None:
    content = load(root / f"v2_OpenEnded_mscoco_{FOLDERS[split]}_questions.json")
    assert set(content) == QUESTION_KEYS
    assert (content["task_type"], content["data_type"]) == ("Open-Ended", "mscoco")
    assert content["data_subtype"] == FOLDERS[split]
    assert all(set(entry) == {"image_id", "question", "question_id"} for entry in content["questions"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotation_files_have_the_official_keys(root: Path, split: str) -> None:
    content = load(root / f"v2_mscoco_{FOLDERS[split]}_annotations.json")
    assert set(content) == ANNOTATION_KEYS
    for entry in content["annotations"]:
        assert set(entry) == {
            "question_id",
            "image_id",
            "question_type",
            "answer_type",
            "multiple_choice_answer",
            "answers",
        }
        assert [set(a) for a in entry["answers"]] == [{"answer", "answer_confidence", "answer_id"}] * 10
        assert [a["answer_id"] for a in entry["answers"]] == list(range(1, 11))
        assert {a["answer"] for a in entry["answers"]} == {entry["multiple_choice_answer"]}
        assert entry["answer_type"] in ("yes/no", "number", "other")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_files_have_the_official_keys(root: Path, split: str) -> None:
    instances, captions = (load(root / f"annotations/{k}_{FOLDERS[split]}.json") for k in ("instances", "captions"))
    assert set(instances) == {"info", "licenses", "images", "annotations", "categories"}
    assert set(captions) == {"info", "licenses", "images", "annotations"}
    assert instances["images"] == captions["images"]
    assert {(i["width"], i["height"]) for i in instances["images"]} == {(128, 128)}
    assert {c["id"]: c["name"] for c in instances["categories"]} == dict(enumerate(SHAPES, 1))
    official = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
    assert all(set(entry) == official | {"attributes"} for entry in instances["annotations"])
    assert all(set(entry) == {"id", "image_id", "caption"} for entry in captions["annotations"])
    assert Counter(c["image_id"] for c in captions["annotations"]) == {i["id"]: 5 for i in instances["images"]}
    assert all(c["caption"][0].isupper() and c["caption"].endswith(".") for c in captions["annotations"])


def test_ids_are_unique_within_and_between_splits(root: Path) -> None:
    images = [int(path.stem.split("_")[-1]) for path in root.rglob("*.jpg")]
    asked = [entry["question_id"] for split in FOLDERS for entry in questions(root, split)]
    assert len(set(images)) == len(images) == 23
    assert len(set(asked)) == len(asked) > 100
    for kind in ("instances", "captions"):
        files = [load(root / f"annotations/{kind}_{folder}.json") for folder in ("train2014", "val2014")]
        ids = [entry["id"] for content in files for entry in content["annotations"]]
        assert len(set(ids)) == len(ids) > 60


def test_scenes_are_those_of_the_seed(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (128, 128, 3)
        for thing in scene_of(int(path.stem.split("_")[-1])):
            middle = pixels[int(thing.y) - 1 : int(thing.y) + 2, int(thing.x) - 1 : int(thing.x) + 2]
            assert abs(middle.mean(axis=(0, 1)) - thing.rgb).max() < 40, (path, thing)  # JPEG blurs colours


@pytest.mark.parametrize("split", ["train", "val"])
def test_polygons_are_the_objects(root: Path, split: str) -> None:
    coco = COCO(root / f"annotations/instances_{FOLDERS[split]}.json")
    for image_id in coco.getImgIds():
        entries = coco.imgToAnns[image_id]
        for thing, entry in zip(scene_of(image_id), entries, strict=True):
            covered = coco.annToMask(entry).astype(bool)
            drawn = mask(thing)
            assert (covered & drawn).sum() / (covered | drawn).sum() > 0.9
            assert SHAPES[entry["category_id"] - 1] == thing.shape
            assert entry["attributes"] == {"color": thing.colour, "size": thing.size}
            assert entry["area"] == pytest.approx(covered.sum(), rel=0.08)
            x, y = np.reshape(entry["segmentation"][0], (-1, 2)).T
            assert entry["bbox"] == pytest.approx([x.min(), y.min(), np.ptp(x), np.ptp(y)], abs=0.011)


@pytest.mark.parametrize("split", ["train", "val"])
def test_truth_names_objects_of_the_image_and_whole_words(root: Path, split: str) -> None:
    truth = load(root / f"annotations/shapes_truth_{FOLDERS[split]}.json")
    drawn = load(root / f"annotations/instances_{FOLDERS[split]}.json")["annotations"]
    instances = {entry["id"]: entry for entry in drawn}
    answers = {entry["question_id"]: entry for entry in annotations(root, split)}
    assert set(truth) == {str(entry["question_id"]) for entry in questions(root, split)}
    for entry in questions(root, split):
        text, said = entry["question"], truth[str(entry["question_id"])]
        for start, end in said["words"]:
            assert text[start:end].isalpha() and not (text[start - 1] + text[end]).isalpha(), text
        assert all(instances[key]["image_id"] == entry["image_id"] for key in said["instances"])
        answer = answers[entry["question_id"]]
        if answer["question_type"] == "counting":
            assert len(said["instances"]) == int(answer["multiple_choice_answer"])
        for instance in (instances[key] for key in said["instances"]):
            colour, size = instance["attributes"]["color"], instance["attributes"]["size"]
            assert any(word in text for word in (colour, size, SHAPES[instance["category_id"] - 1])), text
        if answer["question_type"] == "colour":
            (key,) = said["instances"]
            assert instances[key]["attributes"]["color"] == answer["multiple_choice_answer"]


def test_the_official_reader_reads_all(root: Path, tmp_path: Path) -> None:
    for split in FOLDERS:
        rows = read_official(root, split, cache_dir=tmp_path / "cache")
        asked = {entry["question_id"]: entry for entry in questions(root, split)}
        assert list(rows["question_id"]) == list(asked)
        assert list(rows["question"]) == [entry["question"] for entry in asked.values()]
        assert missing_images(rows, root) == []
        if split == "test":
            assert set(rows["answer"]) == {""}
        else:
            assert list(rows["answer"]) == [entry["multiple_choice_answer"] for entry in annotations(root, split)]
            words = [
                "yes",
                "no",
                "small",
                "large",
                "left",
                "right",
                "above",
                "below",
                "more",
                "fewer",
                "larger",
                "smaller",
            ]
            known = {*COLOURS, *SHAPES, *"012345", *words, *(place for row in PLACES for place in row)}
            assert {answer for row in rows["answers"] for answer in row} <= known


def test_the_command_gives_the_same_bytes_in_another_process(root: Path, tmp_path: Path) -> None:
    options = {"--root": tmp_path / "again", "--train": 14, "--val": 6, "--test": 3, "--questions": 5, "--seed": 4}
    subprocess.run(
        [sys.executable, "-m", "clipmapper.data.shapes", *(str(part) for pair in options.items() for part in pair)],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},  # the order of sets has no say
    )
    assert contents(tmp_path / "again") == contents(root)


def test_a_bigger_data_set_starts_with_the_smaller(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "bigger", ShapesConfig(train=16, val=7, test=0, questions=5, seed=4))
    for split in ("train", "val"):
        less, more = questions(root, split), questions(tmp_path / "bigger", split)
        assert more[: len(less)] == less and len(more) > len(less)
        less, more = annotations(root, split), annotations(tmp_path / "bigger", split)
        assert more[: len(less)] == less
        for path in (root / FOLDERS[split]).iterdir():
            assert (tmp_path / "bigger" / FOLDERS[split] / path.name).read_bytes() == path.read_bytes()
    assert not [name for name in contents(tmp_path / "bigger") if "test" in name]  # a split of no scenes has no files


def test_another_seed_gives_other_scenes(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "other", ShapesConfig(train=2, val=1, test=0, questions=5, seed=5), workers=1)
    assert questions(tmp_path / "other", "train") != questions(root, "train")[:10]
    name = "train2014/COCO_train2014_000000000001.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (root / name).read_bytes()


def test_what_is_there_stays(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_shapes(root, CONFIG)
    with pytest.raises(FileExistsError, match=r"root exists.*seed=5.*choose another"):
        write_shapes(root, ShapesConfig(14, 6, 3, 5, seed=5))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_foreign_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="mine exists and is not Shapes"):
        write_shapes(tmp_path / "mine", CONFIG)
    assert contents(tmp_path) == {"mine/letter.txt": b"dear"}


def test_a_crash_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        assert list(tmp_path.rglob("*.jpg"))  # it had begun
        raise OSError("disk full")

    monkeypatch.setattr(write, "_write_annotations", crash)
    with pytest.raises(OSError, match="disk full"):
        write_shapes(tmp_path / "root", ShapesConfig(1, 1, 0), workers=1)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    code = "import os; print(os.getpid())"
    dead = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    host = socket.gethostname()
    gone = [f"root.partial-{dead}", f"root.partial-{dead}@{host}"]
    kept = [f"root.partial-{os.getpid()}", f"root.partial-{dead}@elsewhere", f"other.partial-{dead}", "root.partial-me"]
    for name in gone + kept:
        (tmp_path / name / "train2014").mkdir(parents=True)
    write_shapes(tmp_path / "root", ShapesConfig(1, 1, 0), workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"root", *kept}


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"test": -1}, {"questions": 0}, {"train": 250_001}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Shapes"):
        ShapesConfig(**wrong)


@pytest.mark.parametrize("content", ["{", "[1]", '{"train": "5"}', '{"trian": 5}', '{"train": 0}', '{"train": null}'])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(ValueError, match=r"shapes\.json: "):
        write_shapes(tmp_path, ShapesConfig(train=1, val=1, test=0, questions=1))
    with pytest.raises(ValueError, match=r"shapes\.json: "):
        scenes_of(tmp_path, [1])
