"""The official rules by hand-worked cases, a literal re-derivation, and published figures."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmapper.data.answers import (
    CONTRACTIONS,
    AnswerVocabulary,
    normalise,
    soft_scores,
    unanimous,
    vqa_accuracy,
)

PIECES = [*"ab1\t\n .,-/!'", "the ", "two ", "dont ", "No"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Yes", "yes"),
        (" yes\n", "yes"),
        ("on\tleft\nside", "on left side"),
        ("the two dogs", "2 dogs"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("a", ""),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # the official table lacks exactly one apostrophe a form
        ("somebody'd", "somebodyd"),
        ("yall'd've", "y'all'd've"),
        ("lets", "lets"),
        ("t-shirt", "t shirt"),  # between letters a mark becomes a blank ...
        ("yes!", "yes"),
        ("red, white", "red white"),  # ... next to a blank it goes
        ("black- and-white", "black andwhite"),  # and once it does anywhere, everywhere
        ("1,000-2", "10002"),  # so do all marks once a comma stands between digits
        ("3.", "3"),
        ("3.5", "3.5"),
        ("no. 3", "no 3"),
        ("a.m.", "am"),
        ("3:00 p.m", "3:00 pm"),
        ("x" + "." * 40, "x" + "." * 8),  # 32 periods are removed at most
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert normalise(raw) == expected


def test_contractions_of_the_official_table() -> None:
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["'ow'sat"] == CONTRACTIONS["ow's'at"] == "'ow's'at"


def literal_accuracy(prediction: str, answers: list[str]) -> float:
    answers = [a.replace("\n", " ").replace("\t", " ").strip() for a in answers]
    prediction = prediction.replace("\n", " ").replace("\t", " ").strip()
    if len(set(answers)) > 1:
        answers, prediction = [normalise(a) for a in answers], normalise(prediction)
    total = 0.0
    for left_out in range(len(answers)):
        matching = sum(a == prediction for i, a in enumerate(answers) if i != left_out)
        total += min(1.0, matching / 3)
    return total / len(answers)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=12))
def test_accuracy_leaves_one_annotator_out(prediction: str, answers: list[str]) -> None:
    for said in (prediction, *answers):
        assert vqa_accuracy(said, answers) == pytest.approx(literal_accuracy(said, answers))


@given(st.lists(TEXTS, min_size=1, max_size=12))
def test_soft_score_is_the_accuracy_of_saying_it(answers: list[str]) -> None:
    scores = soft_scores(answers)
    assert set(scores) == {normalise(a) for a in answers}
    for answer in answers:
        assert scores[normalise(answer)] == pytest.approx(vqa_accuracy(answer, answers))


@pytest.mark.parametrize(("count", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_ten_annotators(count: int, score: float) -> None:
    answers = ["two"] * count + [f"dog {i}" for i in range(10 - count)]
    assert vqa_accuracy("2", answers) == pytest.approx(score)


def test_only_disagreement_is_normalised() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0.0
    assert vqa_accuracy(" two\n", ["two"] * 9 + ["two\t"]) == 1.0
    assert vqa_accuracy("2", ["two"] * 9 + ["dog"]) == 1.0


def test_no_answers() -> None:
    assert soft_scores([]) == {}
    with pytest.raises(ValueError, match="test split"):
        vqa_accuracy("yes", [])


@pytest.fixture(scope="module")
def annotations(shared_data: Path) -> list[dict]:
    files = sorted((shared_data / "vqa/nlp1_subset").glob("annotations_*.json.gz"))
    return [entry for file in files for entry in json.loads(gzip.decompress(file.read_bytes()))["annotations"]]


def yes_to_everything(annotations: list[dict]) -> float:
    scores = [vqa_accuracy("yes", [a["answer"] for a in entry["answers"]]) for entry in annotations]
    return round(100 * sum(scores) / len(scores), 2)


def test_figures_of_the_balanced_subset(annotations: list[dict], shared_data: Path) -> None:
    by_type = {
        kind: yes_to_everything([entry for entry in annotations if entry["answer_type"] == kind])
        for kind in ("yes/no", "number", "other")
    }
    assert by_type == {"yes/no": 62.54, "number": 0.21, "other": 1.01}
    assert yes_to_everything(annotations) == 21.25
    assert Counter(entry["answer_type"] for entry in annotations) == {
        "yes/no": 20_000,
        "number": 20_000,
        "other": 20_000,
    }
    vocabulary = AnswerVocabulary.from_file(shared_data / "vqa/trainval_label2ans.json")
    answers = {*vocabulary.answers}
    known = sum(normalise(entry["multiple_choice_answer"]) in answers for entry in annotations)
    assert known / 60_000 == pytest.approx(0.9394, abs=5e-5)


@pytest.mark.parametrize(
    ("file", "figure"), [("smallval/smallval_annotations.json", 24.09), ("v2_mscoco_val2014_annotations.json", 27.42)]
)
def test_figures_of_val(shared_data: Path, file: str, figure: float) -> None:
    assert yes_to_everything(json.loads((shared_data / "vqa" / file).read_text())["annotations"]) == figure


def test_published_vocabulary(shared_data: Path, annotations: list[dict]) -> None:
    vocabulary = AnswerVocabulary.from_file(shared_data / "vqa/trainval_label2ans.json")
    assert vocabulary == AnswerVocabulary.from_file(shared_data / "vqa/trainval_ans2label.json")
    assert len(vocabulary) == 3129 and vocabulary[0] == ""
    assert [answer for answer in vocabulary.answers if normalise(answer) != answer] == []
    known = set(vocabulary.answers)
    assert sum(e["multiple_choice_answer"] in known for e in annotations) / len(annotations) == pytest.approx(
        0.936, abs=5e-4
    )


def test_encode_leaves_unknown_answers_out() -> None:
    vocabulary = AnswerVocabulary(("", "2", "dog"))
    labels, scores = vocabulary.encode(["dog"] * 2 + ["Two"] * 5 + ["cat"] * 3)
    assert labels == [2, 1]
    assert scores == pytest.approx([0.6, 1.0])
    assert vocabulary.encode([]) == ([], [])


def test_from_counts_is_sorted_and_cut() -> None:
    counts = {"b": 9, "rare": 8, "a": 9, "z": 30}
    assert AnswerVocabulary.from_counts(counts).answers == ("z", "a", "b")
    assert AnswerVocabulary.from_counts(counts, min_count=8).answers == ("z", "a", "b", "rare")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1", "truncated or not JSON .*expected a list of answers"),
        ('["a", "b", "a"]', "more than once.*'a'"),
        ('["a", 3]', "entry 1 is 3"),
        ('"yes"', "holds a str"),
        ('{"a": 0, "b": 2}', "not 0 to 1"),
        ('{"a": 0, "b": "1"}', "not 0 to 1"),
    ],
)
def test_bad_vocabulary_file(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "label2ans.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"label2ans.json: .*{complaint}"):
        AnswerVocabulary.from_file(path)


def test_missing_vocabulary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"label2ans\.json: no such"):
        AnswerVocabulary.from_file(tmp_path / "label2ans.json")


def test_a_lone_answer_counts_as_ten() -> None:
    assert soft_scores(unanimous(["cat"])) == {"cat": 1.0}
    assert unanimous(["cat", "dog"]) == ["cat", "dog"] and unanimous([]) == []


@pytest.mark.parametrize("known", [("dog", "2", "yes", "red blue"), ("0",), ()])
def test_many_questions_are_encoded_as_each(known: tuple[str, ...]) -> None:
    draw = random.Random(0)
    pool = ["yes", "no", "Two", "2", "a dog", "dog", "3.", "red, blue", "dont", "", "none"]
    rows = [draw.choices(pool, k=draw.choice([0, 1, 2, 3, 10, 10])) for _ in range(500)]
    parts = [pa.array(part, pa.list_(pa.string())) for part in (rows[:100], rows[100:])]
    labels, scores = AnswerVocabulary(known).encode_all(pa.chunked_array(parts))
    for row, encoded, soft in zip(rows, labels.to_pylist(), scores.to_pylist(), strict=True):
        expected = {answer: score for answer, score in soft_scores(row).items() if answer in known}
        assert [known[label] for label in encoded] == list(expected)
        assert soft == pytest.approx(list(expected.values()))
