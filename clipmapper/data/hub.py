"""Any VQA-like data set of the Hugging Face Hub, or of a local folder, in the columns of `official.FEATURES`."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value, concatenate_datasets, load_dataset, load_from_disk
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher

from clipmapper.data.answers import normalise, unanimous
from clipmapper.data.files import BadData
from clipmapper.data.official import FEATURES
from xai.files import repeated

IDS = ("question_id", "image_id")


def read_hub(name: str, split: str, columns: Mapping[str, str], cache_dir: str | Path | None = None) -> Dataset:
    """Records of one split; `columns` maps a record column to the data set's own name for it.

    `name` is a Hub id, a folder that `load_dataset` reads or one that `save_to_disk` wrote. Columns that already have a
    record's name need no entry (ids only if they are integers). Without ids the rows are numbered; a single answer
    counts as ten equal ones; the answer type follows from the answer. `image` stays undecoded: {"bytes", "path"}.
    Raises ValueError for an unknown column, BadData for a column that holds something else.
    """
    cache = Path(cache_dir or HF_DATASETS_CACHE)
    source = open_hub(name, split, cache)
    columns = matched_columns(source, columns, name, FEATURES, required=("question", "image"))
    fingerprint = Hasher.hash([source._fingerprint, sorted(columns.items()), Path(__file__).read_bytes()])
    images = image_column(source, columns["image"], name)
    texts = source.select_columns(sorted({column for record, column in columns.items() if record != "image"}))
    features = Features({record: kind for record, kind in FEATURES.items() if record != "image"})
    rows = texts.map(
        _records,
        batched=True,
        with_indices=True,
        fn_kwargs={"columns": columns, "name": name},
        remove_columns=texts.column_names,
        features=features,
        new_fingerprint=fingerprint,
        cache_file_name=str(cache / f"records-{fingerprint}.arrow"),  # a saved data set may lie in a read-only folder
        desc="Reading questions",
    )
    if (twice := repeated(rows["question_id"][:])) is not None:
        raise BadData(f"{name}: several rows have the question_id {twice}; give each its own, or rename that column")
    # Side by side, so that the images, often gigabytes, are not copied.
    return concatenate_datasets([rows, images], axis=1).select_columns(list(FEATURES))


def open_hub(name: str, split: str, cache_dir: Path) -> Dataset:
    """One split of a Hub data set or of a local folder.

    Raises:
        ValueError: a split that the folder lacks.
        BadData: a folder that cannot be read; names it.
    """
    if not Path(name).exists():
        return load_dataset(name, split=split, cache_dir=str(cache_dir))
    try:
        source = _open_folder(name, cache_dir)
        if isinstance(source, Dataset):
            source.data.table.validate(full=True)  # a damaged table may crash whoever reads it
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadData(
            f"{name}: the data set in this folder cannot be read ({reason}); fetch it or save it anew"
        ) from error
    if isinstance(source, Dataset):
        return source
    if split not in source:
        raise ValueError(f"{name}: no split {split!r}; it has {', '.join(source)}")
    return source[split]


def _open_folder(name: str, cache_dir: Path) -> Dataset | DatasetDict:
    saved = any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    return load_from_disk(name) if saved else load_dataset(name, cache_dir=str(cache_dir))


def image_column(source: Dataset, column: str, name: str) -> Dataset:
    """The column as undecoded images, named "image". Raises BadData for one that holds something else."""
    kind = source.features[column]
    if not isinstance(kind, Image) and kind not in (Value("string"), Value("binary")):
        raise BadData(f"{name}: column {column!r} holds {kind}; expected an image, its path or its bytes")
    images = source.select_columns([column]).rename_columns({column: "image"})
    return images.cast_column("image", Image(decode=False))


def matched_columns(
    source: Dataset, columns: Mapping[str, str], name: str, features: Features, required: Sequence[str]
) -> dict[str, str]:
    """The column of the source for each record column of `features` there is one for. Raises ValueError."""
    for record, column in columns.items():
        _known(record, list(features), f"columns: {record!r} is no column of a record")
        _known(column, source.column_names, f"{name}: no column {column!r}, asked for as {record!r}")
    same = [record for record in features if record in source.column_names]
    usable = [record for record in same if not record.endswith("_id") or "int" in str(source.features[record])]
    matched = {record: record for record in usable} | dict(columns)
    for record in required:
        _known(record, list(matched), f"{name}: no column for {record!r}; name it in columns", source.column_names)
    return matched


def _known(name: str, choices: Sequence[str], complaint: str, listed: Sequence[str] | None = None) -> None:
    if name not in choices:
        listed = listed or choices
        near = get_close_matches(name, listed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{complaint}; there are {', '.join(listed)}{hint}")


def _records(batch: dict[str, list], rows: list[int], columns: Mapping[str, str], name: str) -> dict[str, list]:
    given = {record: batch[column] for record, column in columns.items() if record != "image"}
    try:
        answers = [_answers(value) for value in given.get("answers", given.get("answer", [None] * len(rows)))]
        ids = {record: [int(value) for value in given.get(record, rows)] for record in IDS}
    except (TypeError, ValueError, KeyError) as error:
        raise BadData(
            f"{name}, rows {rows[0]} to {rows[-1]}: {error!r}; expected integer ids and answer texts"
        ) from error
    answer = [_text(value) for value in given.get("answer", map(_most_frequent, answers))]
    return {
        **ids,
        "question": [_text(value) for value in given["question"]],
        "question_type": [_text(value) for value in given.get("question_type", [""] * len(rows))],
        "answer_type": [_text(value) for value in given.get("answer_type", map(answer_type, answer))],
        "answers": answers,
        "answer": answer,
    }


def answer_type(answer: str) -> str:
    """ "yes/no" for yes and no, "number" for digits and number words, "other" for the rest, "" for no answer."""
    if not answer:
        return ""
    normalised = normalise(answer)
    if normalised in ("yes", "no"):
        return "yes/no"
    return "number" if normalised.isdecimal() else "other"


def _answers(value: Any) -> list[str]:
    """Texts from None, a text, texts, objects with "answer", or an object with "answer" texts."""
    if isinstance(value, Mapping):
        return _answers(value["answer"])
    if value is None or isinstance(value, str):
        return unanimous([value]) if value else []
    answers = [entry["answer"] if isinstance(entry, Mapping) else entry for entry in value]
    if not all(isinstance(answer, str) for answer in answers):
        raise TypeError(f"answers {answers!r}")
    return unanimous(answers)


def _most_frequent(answers: list[str]) -> str:
    return max(answers, key=answers.count, default="")


def _text(value: Any) -> str:
    return "" if value is None else str(value)
