"""The questions of a configuration: Shapes, strangers' small data sets, missing images, the built vocabulary."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from clipmapper.config import DataConfig, HubConfig, ShapesConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.files import MissingData
from clipmapper.data.records import Images, build_vocabulary, load_records, load_split, without_missing_images

Foreign = Callable[..., Path]


def test_shapes_are_made_when_asked_for_and_read_as_any_other_data(tmp_path: Path) -> None:
    config = DataConfig(root=tmp_path / "s", shapes=ShapesConfig(train=12, val=4, test=0, questions=2))
    records = load_records(config)
    assert (len(records.train), len(records.val)) == (24, 8) and records.root == config.root
    row = records.train[0]
    assert [records.vocabulary[label] for label in row["labels"]] == [row["answer"]] and row["scores"] == [1.0]
    again = load_records(config)
    assert again.train["question"] == records.train["question"] and again.vocabulary == records.vocabulary


def test_small_data_set_of_a_stranger_has_its_own_answers(tmp_path: Path, foreign: Foreign) -> None:
    records = load_records(DataConfig(root=foreign(tmp_path)))
    assert set(records.vocabulary.answers) == {"oak", "elm", "ash"}
    assert all(score == 1.0 for scores in records.train["scores"] for score in scores)
    assert len(records.val) == 3, "a val split of no more than held_out questions is kept whole"
    _, root = load_split(DataConfig(root=tmp_path), "val", records.vocabulary)
    assert root == tmp_path


def test_held_out_questions_leave_the_training_questions(tmp_path: Path, foreign: Foreign) -> None:
    records = load_records(DataConfig(root=foreign(tmp_path, train=4, val=7), held_out=2))
    train, val = set(records.train["question_id"]), set(records.val["question_id"])
    assert (len(train), len(val)) == (9, 2) and not train & val
    split, _ = load_split(DataConfig(root=tmp_path, held_out=2), "val", records.vocabulary)
    assert set(split["question_id"]) == val


def test_vocabulary_of_a_large_data_set_follows_the_published_rule() -> None:
    counts = Counter({"yes": 1000, "no": 800, "red": 9, "blue": 8})
    assert build_vocabulary(counts, 9).answers == ("yes", "no", "red")


def test_vocabulary_of_a_small_data_set_covers_nine_tenths_of_it() -> None:
    counts = Counter({"a": 5, "b": 3, "c": 1, "d": 1})  # 5 + 3 is 80 %, all is 100 %
    assert set(build_vocabulary(counts, 9).answers) == {"a", "b", "c", "d"}
    assert build_vocabulary(Counter({"a": 7, "b": 2, "c": 1}), 9).answers == ("a", "b")


def test_no_answers_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        build_vocabulary(Counter(), 9)


def test_given_vocabulary_is_used_and_answers_outside_it_have_no_label(tmp_path: Path, foreign: Foreign) -> None:
    (tmp_path / "answers.json").write_text(json.dumps(["ash", "fir"]))
    records = load_records(DataConfig(root=foreign(tmp_path / "f"), vocabulary=tmp_path / "answers.json"))
    assert records.vocabulary.answers == ("ash", "fir")
    assert records.train["labels"] == [[], [], [0], [], [], [0]]


def test_missing_data_says_what_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as error:
        load_records(DataConfig(root=tmp_path / "no"))
    for part in (
        f"{tmp_path / 'no' / 'v2_mscoco_val2014_annotations.json'}: missing",
        f"python -m clipmapper.download --root {tmp_path / 'no'}",
        "--config mapper_b_vqa_shapes",
    ):
        assert part in str(error.value)


def test_questions_whose_image_is_missing_are_counted_out(tmp_path: Path, foreign: Foreign) -> None:
    train = load_records(DataConfig(root=foreign(tmp_path))).train
    (tmp_path / "train2014" / "1.png").unlink()
    kept, gone = without_missing_images(train, tmp_path)
    assert gone == 2 and kept["image_id"] == [0, 0, 2, 2]
    for path in (tmp_path / "train2014").iterdir():
        path.unlink()
    with pytest.raises(MissingData, match=r"none of the 6 texts has its image: looked for .*train2014.0\.png"):
        without_missing_images(train, tmp_path)


def test_each_image_is_there_once_and_belongs_to_its_questions(tmp_path: Path, foreign: Foreign) -> None:
    train = load_records(DataConfig(root=foreign(tmp_path))).train
    chosen = train.select([5, 0, 1, 4, 2])
    images = Images(chosen, tmp_path)
    assert len(images) == 3
    paths = [images.source(int(image)) for image in images.of_row]
    assert paths == [tmp_path / name for name in chosen["image"]]


def test_hub_data_set_brings_its_images(tmp_path: Path) -> None:
    colours = ["red", "green", "blue"]
    for colour in colours:
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{colour}.png")
    rows = {
        "picture": [str(tmp_path / f"{colour}.png") for colour in colours * 2],
        "image_id": [7, 8, 9] * 2,
        "question": [f"question {i}?" for i in range(6)],
        "answer": colours * 2,
    }
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "hub"))
    records = load_records(DataConfig(hub=HubConfig(str(tmp_path / "hub"), columns={"image": "picture"})))
    assert records.root is None and set(records.vocabulary.answers) == set(colours)
    images = Images(records.train, None)
    assert len(images) == 3
    for row, record in enumerate(records.train):
        assert images.source(int(images.of_row[row])) == record["image"]


def test_test_questions_come_with_their_command(tmp_path: Path, foreign: Foreign, shapes_root: Path) -> None:
    vocabulary = AnswerVocabulary(("ash",))
    root = foreign(tmp_path / "f")
    for split in ("test", "test-dev"):
        with pytest.raises(
            MissingData, match=rf"python -m clipmapper\.download --root {root} --parts questions,test2015\n"
        ):
            load_split(DataConfig(root=root), split, vocabulary)
    questions = {"questions": [{"question_id": 1, "image_id": 7, "question": "What?"}]}
    (root / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps(questions))
    records, folder = load_split(DataConfig(root=root), "test", vocabulary)
    with pytest.raises(MissingData, match=rf"has its image: .*clipmapper\.download --root {root} --parts test2015$"):
        without_missing_images(records, folder)
    with pytest.raises(MissingData, match=r"clipmapper\.data\.shapes --root data/shapes"):  # it has no test split
        load_split(DataConfig(root=shapes_root), "test", vocabulary)
