"""VQAv2 and data sets laid out like it: the official JSON files as a memory-mapped table, one row a question.

root/v2_OpenEnded_mscoco_val2014_questions.json, root/v2_mscoco_val2014_annotations.json,
root/val2014/COCO_val2014_000000000042.jpg; likewise train2014, test2015 and test-dev2015 (images of test2015).
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson
import pyarrow as pa
from datasets import Dataset, Features, List, NamedSplit, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from clipmapper.data import answers as answer_rules
from clipmapper.data.answers import AnswerVocabulary, normalise, unanimous
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


class MissingData(FileNotFoundError):
    """Files of a data set that are not there; the message lists every path looked at."""


class BadData(ValueError):
    """A data file that holds something else than expected; the message names file and entry."""


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
    _require(files.paths(root))
    renamed = _renamed_images(root / files.folder)
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files.paths(root)]
    try:
        return Dataset.from_generator(
            _rows,
            features=FEATURES,
            cache_dir=str(cache_dir) if cache_dir else None,
            gen_kwargs={"root": root, "files": files, "renamed": renamed},
            split=NamedSplit(split.replace("-", "_")),
            fingerprint=Hasher.hash([stats, renamed, Path(__file__).read_bytes()]),
        )
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def train_val(root: str | Path, held_out: int = 10_000, cache_dir: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Training questions (train and most of val) and the `held_out` val questions kept for validation.

    A val split of at most `held_out` questions is validation as a whole. Raises MissingData if either split is missing.
    """
    _require([path for split in ("train", "val") for path in SPLITS[split].paths(Path(root))])
    train, val = (read_official(root, split, cache_dir) for split in ("train", "val"))
    if len(val) <= held_out:
        return train, val
    kept, held = hold_out(column(val, "question_id").to_numpy(), held_out)
    return concatenate_datasets([train, val.select(kept)]), val.select(held)


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """One column as Arrow values, without a Python object a row."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def missing_images(dataset: Dataset, root: str | Path) -> list[str]:
    """The images of an official data set that are not below the root, sorted; each folder is listed once."""
    wanted = set(column(dataset, "image").unique().to_pylist())
    folders = {os.path.dirname(path) for path in wanted}
    return sorted(wanted - {f"{folder}/{name}" for folder in folders for name in _listing(Path(root) / folder)})


def answer_counts(dataset: Dataset) -> Counter[str]:
    """How often each normalised `answer` occurs; questions without one are left out."""
    counts: Counter[str] = Counter()
    for entry in column(dataset, "answer").value_counts().to_pylist():
        if entry["values"]:
            counts[normalise(entry["values"])] += entry["counts"]
    return counts


def with_labels(dataset: Dataset, vocabulary: AnswerVocabulary) -> Dataset:
    """The data set with `labels` (list of int32) and `scores` (list of float32, as long): its answers, encoded.

    Cached by the content of both and by the text of the encoding rules. Select rows afterwards rather than before:
    a selection is copied here.
    """
    rules = Path(answer_rules.__file__).read_bytes()
    labels = dataset.select_columns(["answers"]).map(
        _encode_batch,
        batched=True,
        input_columns="answers",
        fn_kwargs={"vocabulary": vocabulary},
        remove_columns=["answers"],
        features=Features(labels=List(Value("int32")), scores=List(Value("float32"))),
        new_fingerprint=Hasher.hash([dataset._fingerprint, vocabulary.answers, rules]),
        desc="Encoding answers",
    )
    return concatenate_datasets([dataset, labels], axis=1)


def _encode_batch(batch: list[list[str]], vocabulary: AnswerVocabulary) -> dict[str, list]:
    encoded = [vocabulary.encode(answers) for answers in batch]
    return {"labels": [labels for labels, _ in encoded], "scores": [scores for _, scores in encoded]}


def _require(paths: list[Path]) -> None:
    if not all(path.is_file() for path in paths):
        looked = "\n".join(f"  {path}: {'found' if path.is_file() else 'missing'}" for path in paths)
        raise MissingData(f"VQA files are missing; download them or give another data root:\n{looked}")


def _listing(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def _official_name(folder: str, image_id: int) -> str:
    return f"COCO_{folder}_{image_id:012d}.jpg"


def _renamed_images(folder: Path) -> dict[int, str]:
    """File name of each image id whose file has a plainer name ("42.jpg", "000000000042.png") than the official one."""
    names = set(_listing(folder))
    pattern = re.compile(rf"(?:COCO_{folder.name}_)?(\d+)\.(?:jpe?g|png)")
    found = {int(match[1]): name for name in sorted(names) if (match := pattern.fullmatch(name))}
    return {image: name for image, name in found.items() if _official_name(folder.name, image) not in names}


def _rows(root: Path, files: Files, renamed: dict[int, str]) -> Iterator[dict[str, Any]]:
    questions = _read_questions(root / files.questions)
    for question_id, image_id, question, annotation in _joined(root, files, questions):
        name = renamed.get(image_id) or _official_name(files.folder, image_id)
        yield {
            "question_id": question_id,
            "image_id": image_id,
            "image": f"{files.folder}/{name}",
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
    for entry in _entries(path, "annotations"):
        question_id = _field(entry, "question_id", int, path)
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
    for entry in _entries(path, "questions"):
        question_id = _field(entry, "question_id", int, path)
        if question_id in questions:
            raise BadData(f"{path}: question_id {question_id} is there twice; expected each once")
        questions[question_id] = _field(entry, "image_id", int, path), _field(entry, "question", str, path)
    return questions


def _annotation(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    answers = unanimous([_field(answer, "answer", str, path) for answer in _field(entry, "answers", list, path)])
    most_frequent = max(answers, key=answers.count, default="")
    return {
        "question_type": str(entry.get("question_type") or ""),
        "answer_type": str(entry.get("answer_type") or ""),
        "answers": answers,
        "answer": str(entry.get("multiple_choice_answer") or most_frequent),
    }


def _entries(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects of the list `key`, one after the other: the official files do not fit into memory twice."""
    empty = True
    try:
        with path.open("rb") as file:
            for entry in ijson.items(file, f"{key}.item", use_float=True):
                empty = False
                yield entry
    except ijson.JSONError as error:
        raise BadData(f"{path}: truncated or not JSON; expected the official file, fetch it anew") from error
    if empty:
        raise BadData(f'{path}: holds no entries under "{key}"; expected the official file {{"{key}": [...], ...}}')


def _field(entry: Any, name: str, kind: type, path: Path) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise BadData(f"{path}: {name!r} is {value!r} in {str(entry)[:200]}; expected type {kind.__name__}")
    return value
