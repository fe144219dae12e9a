"""VQAv2 and data sets laid out like it: the official JSON files as a memory-mapped table, one row a question.

root/v2_OpenEnded_mscoco_val2014_questions.json, root/v2_mscoco_val2014_annotations.json,
root/val2014/COCO_val2014_000000000042.jpg; likewise train2014, test2015 and test-dev2015 (images of test2015).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher

from clipmapper.data import answers as answer_rules
from clipmapper.data.answers import AnswerVocabulary, normalise, unanimous
from clipmapper.data.files import BadData, column, entries, field, image_path, renamed_images, require, table
from clipmapper.data.splits import hold_out

FEATURES = Features(
    question_id=Value("int64"),
    image_id=Value("int64"),
    image=Value("string"),  # below the root; a Hub data set has the image itself here
    question=Value("string"),
    question_type=Value("string"),  # "" where unknown
    answer_type=Value("string"),  # "yes/no", "number", "other" or ""
    answers=List(Value("string")),  # as the annotators gave them; empty in a test split
    answer=Value("string"),  # the most frequent one; "" in a test split
)
ENCODED_AT_ONCE = 50_000


@dataclass(frozen=True)
class Files:
    """Names below the root that make up a split."""

    folder: str
    questions: str
    annotations: str | None = None

    def paths(self, root: Path) -> list[Path]:
        return [root / name for name in (self.questions, self.annotations) if name]


QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
SPLITS = {
    "train": Files("train2014", QUESTIONS.format("train2014"), ANNOTATIONS.format("train2014")),
    "val": Files("val2014", QUESTIONS.format("val2014"), ANNOTATIONS.format("val2014")),
    "test": Files("test2015", QUESTIONS.format("test2015")),
    "test-dev": Files("test2015", QUESTIONS.format("test-dev2015")),
}


def read_official(root: str | Path, split: str, cache_dir: str | Path | None = None) -> Dataset:
    """The questions of "train", "val", "test" or "test-dev" with columns FEATURES, in file order.

    The first call converts the JSON files into an Arrow file (`cache_dir`, by default the cache of `datasets`); later
    calls map that file, until a JSON file changes. Raises ValueError for another split, MissingData, BadData.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    root, files = Path(root).absolute(), SPLITS[split]
    require(files.paths(root), "VQA")
    given = {"root": root, "files": files, "renamed": renamed_images(root / files.folder)}
    return table(_rows, given, FEATURES, files.paths(root), __file__, split, cache_dir)


def train_val(root: str | Path, held_out: int = 10_000, cache_dir: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Training questions (train and most of val) and the `held_out` val questions kept for validation.

    A val split of at most `held_out` questions is validation as a whole. Raises MissingData if either split is missing.
    """
    require([path for split in ("train", "val") for path in SPLITS[split].paths(Path(root))], "VQA")
    train, val = (read_official(root, split, cache_dir) for split in ("train", "val"))
    if len(val) <= held_out:
        return train, val
    kept, held = hold_out(column(val, "question_id").to_numpy(), held_out)
    return concatenate_datasets([train, val.select(kept)]), val.select(held)


def answer_counts(dataset: Dataset) -> Counter[str]:
    """Counts each normalised `answer`; questions without one are left out."""
    counts: Counter[str] = Counter()
    for entry in column(dataset, "answer").value_counts().to_pylist():
        if entry["values"]:
            counts[normalise(entry["values"])] += entry["counts"]
    return counts


def with_labels(dataset: Dataset, vocabulary: AnswerVocabulary) -> Dataset:
    """The data set with `labels` (list of int32) and `scores` (list of float32, as long): its answers, encoded.

    Cached by the content of both and by the text of the encoding rules. Of a selection of rows all are encoded, and then
    selected: in their own order they are read and written fast.
    """
    rows = None if dataset._indices is None else dataset._indices.column(0).to_numpy()
    rules = Path(answer_rules.__file__).read_bytes()
    if rows is not None:
        whole = Hasher.hash(["all rows", dataset._fingerprint])
        dataset = Dataset(dataset.data, dataset.info.copy(), dataset.split, fingerprint=whole)
    labels = (
        dataset.select_columns(["answers"])
        .with_format("arrow")
        .map(
            _encode_batch,
            batched=True,
            batch_size=ENCODED_AT_ONCE,
            fn_kwargs={"vocabulary": vocabulary},
            remove_columns=["answers"],
            features=Features(labels=List(Value("int32")), scores=List(Value("float32"))),
            new_fingerprint=Hasher.hash([dataset._fingerprint, vocabulary.answers, rules]),
            desc="Encoding answers",
        )
    )
    labelled = concatenate_datasets([dataset, labels.with_format(None)], axis=1)
    return labelled if rows is None else labelled.select(rows)


def _encode_batch(batch: pa.Table, vocabulary: AnswerVocabulary) -> pa.Table:
    return pa.table(vocabulary.encode_all(batch["answers"]), names=["labels", "scores"])


def _rows(root: Path, files: Files, renamed: dict[int, str]) -> Iterator[dict[str, Any]]:
    questions = _read_questions(root / files.questions)
    for question_id, image_id, question, annotation in _joined(root, files, questions):
        yield {
            "question_id": question_id,
            "image_id": image_id,
            "image": image_path(files.folder, image_id, renamed),
            "question": question,
            **annotation,
        }


def _joined(
    root: Path, files: Files, questions: dict[int, tuple[int, str]]
) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    if files.annotations is None:
        nothing = {"question_type": "", "answer_type": "", "answers": [], "answer": ""}
        yield from ((question_id, *question, nothing) for question_id, question in questions.items())
        return
    path = root / files.annotations
    strays = []
    for entry in entries(path, "annotations"):
        question_id = field(entry, "question_id", int, path)
        if (question := questions.pop(question_id, None)) is None:
            strays.append(question_id)
        else:
            yield question_id, *question, _annotation(entry, path)
    if strays:
        raise BadData(_unmatched(path, "annotations without a question (or given twice)", strays))
    if questions:
        raise BadData(_unmatched(root / files.questions, f"questions without an annotation in {path}", list(questions)))


def _unmatched(path: Path, what: str, ids: list[int]) -> str:
    return f"{path}: {len(ids)} {what}, the first is question_id {ids[0]}; take both files from the same release"


def _read_questions(path: Path) -> dict[int, tuple[int, str]]:
    questions: dict[int, tuple[int, str]] = {}
    for entry in entries(path, "questions"):
        question_id = field(entry, "question_id", int, path)
        if question_id in questions:
            raise BadData(f"{path}: question_id {question_id} is there twice; expected each once")
        questions[question_id] = field(entry, "image_id", int, path), field(entry, "question", str, path)
    return questions


def _annotation(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    answers = unanimous([field(answer, "answer", str, path) for answer in field(entry, "answers", list, path)])
    most_frequent = max(answers, key=answers.count, default="")
    return {
        "question_type": str(entry.get("question_type") or ""),
        "answer_type": str(entry.get("answer_type") or ""),
        "answers": answers,
        "answer": str(entry.get("multiple_choice_answer") or most_frequent),
    }
