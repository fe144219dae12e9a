"""What decides the answers, and files that do not belong together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmapper.data.files import BadData
from clipmapper.data.official import read_official
from clipmapper.data.shapes.truth import Truth
from clipmapper.explain.ground_truth import of_answers
from clipmapper.models.clip import FrozenCLIP


def test_the_words_of_every_question_are_whole(shapes_root: Path) -> None:
    truth = Truth(shapes_root)
    records = read_official(shapes_root, "val")
    for key, text in zip(records["question_id"], records["question"], strict=True):
        assert truth.words(key, text) == truth.words(key)


@pytest.mark.parametrize(
    "edit", [lambda text: "The " + text, lambda text: text[1:], lambda text: text[:4], lambda text: ""], ids="abcd"
)
def test_an_edited_question_is_named(shapes_root: Path, edit: object) -> None:
    truth = Truth(shapes_root)
    records = read_official(shapes_root, "val")
    key, text = records[0]["question_id"], records[0]["question"]
    edited = edit(text)  # type: ignore[operator]
    with pytest.raises(BadData, match=rf"shapes_truth_val2014\.json: its words of question {key} are not in "):
        truth.words(key, edited)


def test_letters_that_clip_mends_are_named(shapes_root: Path, small_clip: FrozenCLIP) -> None:
    """CLIP reads "&amp;" as "&", which is no token of the question."""
    truth = Truth(shapes_root)
    record = read_official(shapes_root, "val")[0]
    text = record["question"] + " &quot;"
    tokens = [small_clip.tokenizer.decode([i]) for i in small_clip.tokenize([text])[0][0].tolist()]
    patches = torch.ones(1, 64, dtype=torch.bool)
    records = {"question_id": [record["question_id"]], "question": [text]}
    with pytest.raises(BadData, match=rf"question {record['question_id']} are not in .*quot"):
        of_answers(truth, records, patches, [tokens], (8, 8))


def test_a_question_of_other_files_is_named(shapes_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shapes_root, tmp_path / "shapes"))
    path = root / "annotations" / "shapes_truth_val2014.json"
    content = json.loads(path.read_text())
    key = int(next(iter(content)))
    del content[str(key)]
    path.write_text(json.dumps(content))
    for ask in (Truth(root).words, Truth(root).outlines):
        with pytest.raises(BadData, match=rf"shapes_truth_val2014\.json has no question {key}: take all files"):
            ask(key)


@pytest.mark.parametrize(
    "value",
    [None, {}, {"instances": [], "word": []}, {"instances": 3, "words": []}, {"instances": ["x"], "words": [[0]]},
     {"instances": [-1], "words": [[0, "5"]]}, {"instances": [[]], "words": [3]}],
)  # fmt: skip
def test_a_truth_of_other_types_is_named(shapes_root: Path, tmp_path: Path, value: Any) -> None:
    root = Path(shutil.copytree(shapes_root, tmp_path / "shapes"))
    path = root / "annotations" / "shapes_truth_val2014.json"
    content = json.loads(path.read_text())
    key = next(iter(content))
    path.write_text(json.dumps({**content, key: value}))
    truth = Truth(root)
    with pytest.raises(BadData, match=rf"shapes_truth_val2014\.json.* question {key}"):
        (truth.outlines(int(key)), truth.words(int(key)))
    for other in ("[]", "{", "[" * 100_000):
        path.write_text(other)
        with pytest.raises(ValueError, match=r"shapes_truth_val2014\.json: .*write Shapes anew"):
            Truth(root)


@pytest.mark.parametrize("outline", [None, [], [[1, 2, 3]], [["a"] * 6], [[1e300] * 6], {"counts": [1]}])
def test_an_outline_that_cannot_be_drawn_is_named(shapes_root: Path, tmp_path: Path, outline: Any) -> None:
    """pycocotools crashes on coordinates far away."""
    root = Path(shutil.copytree(shapes_root, tmp_path / "shapes"))
    path = root / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = outline
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match=r"instances_val2014\.json: annotation \d+: has no outline; write Shapes anew"):
        Truth(root)
