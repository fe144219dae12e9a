"""Other people's data sets become records."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow

from clipmapper.data.answers import vqa_accuracy
from clipmapper.data.files import BadData
from clipmapper.data.hub import answer_type, read_hub
from clipmapper.data.official import FEATURES, answer_counts
from clipmapper.images import load_image


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Pillow.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


IMAGES = [{"bytes": png(colour), "path": None} for colour in ("red", "lime", "blue")]
QUESTIONS = ["What colour?", "Is it red?", "How many?"]


def saved(folder: Path, **columns: list) -> str:
    features = {"img": Image()} if "img" in columns else {}
    inferred = Dataset.from_dict(columns).features
    Dataset.from_dict(columns, features=Features({**inferred, **features})).save_to_disk(folder / "saved")
    return str(folder / "saved")


def read(name: str, tmp_path: Path, split: str = "train", **columns: str) -> Dataset:
    return read_hub(name, split, columns, cache_dir=tmp_path / "cache")


def test_minimal_columns_are_filled(tmp_path: Path) -> None:
    name = saved(tmp_path, img=IMAGES, query=QUESTIONS, label=["red", "no", "3"])
    records = read(name, tmp_path, image="img", question="query", answers="label")
    assert records.column_names == list(FEATURES)
    assert {k: v for k, v in records.features.items() if k != "image"} == {
        k: v for k, v in FEATURES.items() if k != "image"
    }
    assert records["question_id"][:] == records["image_id"][:] == [0, 1, 2]
    assert records["question"][:] == QUESTIONS
    assert records["question_type"][:] == ["", "", ""]
    assert records["answer_type"][:] == ["other", "yes/no", "number"]
    assert records["answer"][:] == ["red", "no", "3"]
    assert records["answers"][1] == ["no"] * 10
    assert all(vqa_accuracy(row["answer"], row["answers"]) == 1.0 for row in records)
    assert [load_image(row["image"]).getpixel((0, 0)) for row in records] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert answer_counts(records) == {"red": 1, "no": 1, "3": 1}


@pytest.mark.parametrize(
    "answers",
    [
        [["red", "blue", "blue"]] * 3,
        [[{"answer": a, "answer_id": i} for i, a in enumerate(["red", "blue", "blue"])]] * 3,
        [{"answer": ["red", "blue", "blue"]}] * 3,
    ],
)
def test_forms_of_answers(tmp_path: Path, answers: list) -> None:
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, answers=answers)
    records = read(name, tmp_path, image="img")
    assert records["answers"][:] == [["red", "blue", "blue"]] * 3
    assert records["answer"][:] == ["blue"] * 3


def test_own_columns_are_kept(tmp_path: Path) -> None:
    own = {
        "question_id": [7, 8, 9],
        "image_id": [1, 1, 2],
        "question_type": ["what", "is", "how"],
        "answer_type": ["other", "other", "other"],
        "answers": [["red", "blue"], ["no", "no"], []],
        "multiple_choice_answer": ["blue", "no", ""],
    }
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, **own)
    records = read(name, tmp_path, image="img", answer="multiple_choice_answer").remove_columns(["image", "question"])
    assert records[:] == {**{k: v for k, v in own.items() if k in FEATURES}, "answer": ["blue", "no", ""]}


def test_no_answers_at_all(tmp_path: Path) -> None:
    records = read(saved(tmp_path, img=IMAGES, question=QUESTIONS), tmp_path, image="img")
    assert records["answers"][:] == [[], [], []] and records["answer_type"][:] == records["answer"][:] == [""] * 3


def test_answer_alone_and_foreign_ids(tmp_path: Path) -> None:
    ids = ["n1", "n2", "n3"]
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, answer=["a", None, "c"], question_id=ids)
    records = read(name, tmp_path, image="img")
    assert records["answers"][:] == [["a"] * 10, [], ["c"] * 10] and records["answer"][:] == ["a", "", "c"]
    assert records["question_id"][:] == [0, 1, 2]
    with pytest.raises(BadData, match=r"saved, rows 0 to 2: .*'n1'.*integer ids"):
        read(name, tmp_path, image="img", question_id="question_id")


def test_images_by_path_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png("red"))
    for number, (image, kind) in enumerate([(str(path), "string"), (png("red"), "binary")]):
        features = Features(image=Value(kind), question=Value("string"))
        rows = Dataset.from_dict({"image": [image], "question": ["?"]}, features=features)
        rows.save_to_disk(tmp_path / f"set{number}")
        record = read(str(tmp_path / f"set{number}"), tmp_path)[0]
        assert load_image(record["image"]).getpixel((0, 0)) == (255, 0, 0)


def test_folder_of_parquet_and_saved_splits(tmp_path: Path) -> None:
    features = Features(image=Image(), question=Value("string"), answers=List(Value("string")))
    rows = Dataset.from_dict({"image": IMAGES, "question": QUESTIONS, "answers": [["yes"] * 10] * 3}, features=features)
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet/train-00000.parquet")
    from_parquet = read(str(tmp_path / "parquet"), tmp_path)
    DatasetDict(val=rows).save_to_disk(tmp_path / "dict")
    assert read(str(tmp_path / "dict"), tmp_path, split="val")[:] == from_parquet[:]
    with pytest.raises(ValueError, match="no split 'train'; it has val"):
        read(str(tmp_path / "dict"), tmp_path)


def test_cached_apart_for_other_columns(tmp_path: Path) -> None:
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, one=["a", "b", "c"], two=["d", "e", "f"])
    assert read(name, tmp_path, image="img", answer="one")["answer"][:] == ["a", "b", "c"]
    assert read(name, tmp_path, image="img", answer="two")["answer"][:] == ["d", "e", "f"]
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 2
    assert not list((tmp_path / "saved").glob("cache*"))


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"image": "img", "question": "querry"}, "no column 'querry'.*there are img, query, n; did you mean 'query'"),
        ({"image": "img", "questions": "query"}, "'questions' is no column of a record.*did you mean 'question'"),
        ({"image": "img"}, "no column for 'question'.*there are img, query, n"),
        ({"image": "n", "question": "query"}, "column 'n' holds .*expected an image"),
        ({"image": "img", "question": "query", "answers": "n"}, "rows 0 to 2: .*answer texts"),
    ],
)
def test_unusable_columns(tmp_path: Path, columns: dict[str, str], complaint: str) -> None:
    name = saved(tmp_path, img=IMAGES, query=QUESTIONS, n=[1, 2, 3])
    with pytest.raises(ValueError, match=complaint):
        read(name, tmp_path, **columns)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("Yes", "yes/no"), ("no", "yes/no"), ("12", "number"), ("two", "number"), ("2 dogs", "other"), ("", "")],
)
def test_answer_type(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


def test_ids_of_questions_are_each_there_once(tmp_path: Path) -> None:
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, answer=["red", "no", "3"], question_id=[7, 4, 7])
    with pytest.raises(BadData, match=r"saved: several rows have the question_id 7; give each its own"):
        read(name, tmp_path, image="img")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    name = saved(tmp_path, img=IMAGES, question=QUESTIONS, answer=["red", "no", "3"])
    (Path(name) / "data-00000-of-00001.arrow").write_bytes(b"<html>404</html>")
    with pytest.raises(BadData, match=r"saved: the data set in this folder cannot be read \(Arrow.*\); fetch it"):
        read(name, tmp_path, image="img")
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text('{"question": ')
    with pytest.raises(BadData, match=r"lines: the data set in this folder cannot be read \(DatasetGeneration"):
        read(str(tmp_path / "lines"), tmp_path)
