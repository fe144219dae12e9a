"""Reading the official files: real samples, strangers' layouts, broken files, the split, the labels."""

import gzip
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from clipmapper.data import official
from clipmapper.data.answers import AnswerVocabulary, normalise, vqa_accuracy
from clipmapper.data.files import BadData, MissingData, missing_images, renamed_images
from clipmapper.data.official import (
    FEATURES,
    SPLITS,
    answer_counts,
    read_official,
    train_val,
    with_labels,
)
from clipmapper.data.splits import hold_out


def question(number: int, image: int = 42) -> dict:
    return {"question_id": number, "image_id": image, "question": f"What is {number}?"}


def annotation(number: int, *answers: str, **more: str) -> dict:
    given = [{"answer": answer, "answer_id": i} for i, answer in enumerate(answers, 1)]
    return {"question_id": number, "image_id": 42, "answers": given, **more}


def write(root: Path, split: str, questions: list[dict], annotations: list[dict] | None = None) -> Path:
    root.mkdir(exist_ok=True)
    for path, (key, entries) in zip(
        SPLITS[split].paths(root), [("questions", questions), ("annotations", annotations)], strict=False
    ):
        path.write_text(json.dumps({"info": {}, key: entries, "data_type": "mscoco"}))
    return root


def read(root: Path, split: str = "val") -> Dataset:
    return read_official(root, split, cache_dir=root / "cache")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    annotations = [annotation(2, "cat", "dog", "dog"), annotation(1, "a", "b", question_type="what")]
    return write(tmp_path, "val", [question(1), question(2)], annotations)


@pytest.fixture(scope="module")
def sample(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    for file in (shared_data / "vqa").glob("v2_*.json"):
        shutil.copy(file, root)
    for split in ("train2014", "val2014"):
        (root / split).symlink_to(shared_data / "images" / split)
    return root


def test_real_val(sample: Path) -> None:
    val = read(sample)
    assert val.features == FEATURES and len(val) == 329
    first = val[0]
    assert first["image"] == "val2014/COCO_val2014_000000000042.jpg"
    assert (first["question_id"], first["image_id"]) == (42000, 42)
    assert first["question"] == "What color are the gym shoes?"
    assert (first["question_type"], first["answer_type"]) == ("what color are the", "other")
    assert first["answers"] == ["white"] * 4 + ["white and black"] + ["white"] * 5
    assert first["answer"] == "white"  # this release has no multiple_choice_answer
    scores = [vqa_accuracy("yes", row["answers"]) for row in val]
    assert 100 * np.mean(scores) == pytest.approx(27.42, abs=0.005)
    assert missing_images(val, sample) == []


def test_real_train(sample: Path) -> None:
    train = read(sample, "train")
    assert len(train) == 102 and train[0]["answer"] == "tree"
    assert {len(row["answers"]) for row in train} == {10}
    assert missing_images(train, sample) == []


def test_smallval(shared_data: Path, tmp_path: Path) -> None:
    for source, target in zip(("questions", "annotations"), SPLITS["val"].paths(tmp_path), strict=True):
        shutil.copy(shared_data / f"vqa/smallval/smallval_{source}.json", target)
    assert len(read(tmp_path)) == 589


def test_balanced_subset(shared_data: Path, tmp_path: Path) -> None:
    """Its validation part; tests/clipmapper/data/test_answers.py has figures of the whole."""
    for source, target in zip(("questions", "annotations"), SPLITS["train"].paths(tmp_path), strict=True):
        content = gzip.decompress((shared_data / f"vqa/nlp1_subset/{source}_valid.json.gz").read_bytes())
        target.write_bytes(content)
    train, given = read(tmp_path, "train"), json.loads(content)["annotations"]
    assert Counter(train["answer_type"]) == Counter(entry["answer_type"] for entry in given)
    vocabulary = AnswerVocabulary.from_file(shared_data / "vqa/trainval_label2ans.json")
    assert answer_counts(train) == Counter(normalise(entry["multiple_choice_answer"]) for entry in given)
    labelled = with_labels(train, vocabulary)
    assert len(labelled) == len(given) > 5000
    for row in labelled.select(range(0, len(labelled), 97)):
        for label, score in zip(row["labels"], row["scores"], strict=True):
            given = next(a for a in row["answers"] if vocabulary.encode([a])[0] == [label])
            assert score == pytest.approx(vqa_accuracy(given, row["answers"]))


def test_rows_are_joined_by_id_and_ties_go_to_the_first_answer(small: Path) -> None:
    rows = {row["question_id"]: row for row in read(small)}
    assert rows[1]["answers"] == ["a", "b"] and rows[1]["answer"] == "a" and rows[1]["question"] == "What is 1?"
    assert rows[2]["answers"] == ["cat", "dog", "dog"] and rows[2]["answer"] == "dog"
    assert (rows[1]["question_type"], rows[2]["question_type"], rows[1]["answer_type"]) == ("what", "", "")


def test_given_answer_wins(tmp_path: Path) -> None:
    write(tmp_path, "val", [question(1)], [annotation(1, "a", "b", "b", multiple_choice_answer="a")])
    assert read(tmp_path)["answer"][:] == ["a"]


@pytest.mark.parametrize("split", ["test", "test-dev"])
def test_test_splits_have_no_answers(tmp_path: Path, split: str) -> None:
    write(tmp_path, split, [question(1, image=7)])
    row = read(tmp_path, split)[0]
    assert row["image"] == "test2015/COCO_test2015_000000000007.jpg"
    assert row["answers"] == [] and row["answer"] == ""


def test_plainly_named_images(tmp_path: Path) -> None:
    write(tmp_path, "test", [question(n, image=n) for n in range(1, 6)])
    folder = tmp_path / "test2015"
    folder.mkdir()
    for name in (
        "1.jpg",
        "000000000002.png",
        "000000000003.jpg",
        "COCO_test2015_000000000004.jpg",
        "4.jpg",
        "COCO_test2015_000000000004.png",
        "notes.txt",
    ):
        (folder / name).touch()
    test = read(tmp_path, "test")
    official_name = "test2015/COCO_test2015_00000000000{}.jpg"
    assert test["image"][:] == [
        "test2015/1.jpg",
        "test2015/000000000002.png",
        "test2015/000000000003.jpg",
        official_name.format(4),
        official_name.format(5),
    ]
    assert missing_images(test, tmp_path) == [official_name.format(5)]
    assert missing_images(test.select([4, 0]), tmp_path) == [official_name.format(5)]
    (folder / "5.jpg").touch()
    assert missing_images(read(tmp_path, "test"), tmp_path) == []


def test_suffixes_may_be_capitals(tmp_path: Path) -> None:
    folder = tmp_path / "val2014"
    folder.mkdir()
    names = {42: "42.JPG", 5: "5.Jpeg", 9: "COCO_val2014_000000000009.JPG", 7: "000000000007.PNG"}
    for name in (*names.values(), "._8.JPG", "COCO_train2014_000000000001.JPG", "cam_2.JPG", "3.JPG.txt"):
        (folder / name).touch()
    assert renamed_images(folder) == names


def test_without_an_image_folder_all_are_missing(small: Path) -> None:
    assert missing_images(read(small), small) == ["val2014/COCO_val2014_000000000042.jpg"]


def test_converted_once_until_a_file_changes(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rows = official._rows
    monkeypatch.setattr(official, "_rows", lambda **given: (calls.append(1), (yield from rows(**given)))[0])
    read(small)
    assert len(read(small)) == 2 and calls == [1]
    path = SPLITS["val"].paths(small)[0]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    assert len(read(small)) == 2 and calls == [1, 1]


def test_broken_conversion_is_not_taken_for_whole(small: Path) -> None:
    path = SPLITS["val"].paths(small)[1]
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-60] + b" " * 60)  # same size, same time: the same cache entry
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(BadData):
        read(small)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(read(small)) == 2


def test_missing_files_are_all_listed(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as error:
        read(tmp_path)
    assert all(str(path) in str(error.value) for path in SPLITS["val"].paths(tmp_path))
    with pytest.raises(ValueError, match=r"'valid'.*train, val, test, test-dev"):
        read(tmp_path, "valid")


@pytest.mark.parametrize("file", [0, 1])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "truncated or not JSON"),
        ("<html>", "truncated or not JSON"),
        ('{"images": [{"id": 1}]}', "holds no entries under"),
        ("[1, 2]", "holds no entries under"),
        ('{"questions": [3], "annotations": [3]}', "'question_id' is None in 3; expected type int"),
        ('{"questions": [{"question_id": "1"}], "annotations": [{"question_id": "1"}]}', "'question_id' is '1'"),
    ],
)
def test_foreign_files(small: Path, file: int, content: str, complaint: str) -> None:
    path = SPLITS["val"].paths(small)[file]
    path.write_text(content)
    with pytest.raises(BadData, match=rf"{path.name}: .*{complaint}"):
        read(small)


@pytest.mark.parametrize("file", [0, 1])
def test_truncated_file(small: Path, file: int) -> None:
    path = SPLITS["val"].paths(small)[file]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadData, match=rf"{path.name}: truncated"):
        read(small)


def test_unmatched_entries(tmp_path: Path) -> None:
    questions, annotations = (path.name for path in SPLITS["val"].paths(tmp_path))
    write(tmp_path, "val", [question(n) for n in (1, 2, 3)], [annotation(1, "a")])
    with pytest.raises(BadData, match=rf"{questions}: 2 questions without an annotation .*question_id 2"):
        read(tmp_path)
    write(tmp_path, "val", [question(1)], [annotation(n, "a") for n in (1, 8, 9)])
    with pytest.raises(BadData, match=rf"{annotations}: 2 annotations without a question .*question_id 8"):
        read(tmp_path)
    write(tmp_path, "val", [question(1), question(1)], [annotation(1, "a")])
    with pytest.raises(BadData, match=rf"{questions}: question_id 1 is there twice"):
        read(tmp_path)


def test_hold_out_depends_on_ids_alone() -> None:
    ids = np.arange(1000) * 7
    kept, held = hold_out(ids, 100)
    assert len(held) == 100 and sorted([*kept, *held]) == list(range(1000))
    shuffled = np.random.default_rng(0).permutation(1000)
    kept_too, held_too = hold_out(ids[shuffled], 100)
    assert set(ids[held]) == set(ids[shuffled][held_too])
    assert (np.diff(kept_too) > 0).all() and (np.diff(held_too) > 0).all()
    assert set(ids[hold_out(ids, 99)[1]]) < set(ids[held])
    assert 30 < (held < 500).sum() < 70


def test_train_val_holds_out_questions_of_val(tmp_path: Path) -> None:
    write(tmp_path, "train", [question(n) for n in range(1, 6)], [annotation(n, "c") for n in range(1, 6)])
    write(tmp_path, "val", [question(n) for n in range(10, 30)], [annotation(n, "b") for n in range(10, 30)])
    train, val = train_val(tmp_path, held_out=4, cache_dir=tmp_path / "cache")
    assert len(train) == 21 and len(val) == 4
    assert sorted([*train["question_id"], *val["question_id"]]) == [*range(1, 6), *range(10, 30)]
    assert min(val["question_id"]) >= 10 and train[0]["question_id"] == 1
    assert answer_counts(train) == {"b": 16, "c": 5}
    labelled = with_labels(train, AnswerVocabulary(("c", "b")))
    assert labelled["question_id"][:] == train["question_id"][:]
    assert labelled["labels"][:] == [[0]] * 5 + [[1]] * 16

    train, val = train_val(tmp_path, held_out=20, cache_dir=tmp_path / "cache")
    assert sorted(train["question_id"]) == [*range(1, 6)] and len(val) == 20


def test_train_val_needs_both(small: Path) -> None:
    with pytest.raises(MissingData, match=r"train2014_questions\.json: missing(.|\n)*val2014_annotations\.json: found"):
        train_val(small)


def test_answer_counts_skip_questions_without_answer(tmp_path: Path) -> None:
    answers = [["Two"], ["2"], ["dog"], []]
    rows = [annotation(n, *given) for n, given in enumerate(answers)]
    write(tmp_path, "val", [question(n) for n in range(4)], rows)
    val = read(tmp_path)
    assert answer_counts(val) == {"2": 2, "dog": 1}
    assert answer_counts(val.select([3, 2, 0])) == {"2": 1, "dog": 1}


def test_labels(tmp_path: Path) -> None:
    rows = [annotation(1, *["Two"] * 2, *["dog"] * 8), annotation(2), annotation(3, *["cat"] * 10)]
    write(tmp_path, "val", [question(n) for n in (1, 2, 3)], rows)
    val = read(tmp_path)
    labelled = with_labels(val, AnswerVocabulary(("dog", "2")))
    assert labelled["labels"][:] == [[1, 0], [], []]
    assert labelled["scores"][0] == pytest.approx([0.6, 1.0])
    assert (
        labelled.features["labels"].feature.dtype == "int32" and labelled.features["scores"].feature.dtype == "float32"
    )
    assert with_labels(val, AnswerVocabulary(("2", "dog")))["labels"][0] == [0, 1]  # another vocabulary, another cache
    assert labelled.remove_columns(["labels", "scores"])[:] == val[:]
