"""The questions or captions of a configuration: where they come from, the answer vocabulary, and each one's image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from clipmapper.config import DataConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.coco import read_captions
from clipmapper.data.files import MissingData, column, missing_images
from clipmapper.data.hub import read_hub
from clipmapper.data.hub_captions import read_hub_captions
from clipmapper.data.official import answer_counts, read_official, train_val, with_labels
from clipmapper.data.shapes.write import write_shapes
from clipmapper.download import PARTS
from clipmapper.images import ImageSource

COVERAGE = 0.9  # share of training questions whose answer a built vocabulary holds at least


@dataclass(frozen=True)
class Records:
    """Questions with `labels` and `scores`; `root` is None where the images are part of the records."""

    train: Dataset
    val: Dataset
    vocabulary: AnswerVocabulary
    root: Path | None


@dataclass(frozen=True)
class CaptionRecords:
    """Captions; `root` is None where the images are part of the records."""

    train: Dataset
    val: Dataset
    root: Path | None


def load_captions(config: DataConfig) -> CaptionRecords:
    """Training and validation captions. Raises MissingData (what to do is in the message), BadData, ValueError."""
    train, val = (load_caption_split(config, split)[0] for split in ("train", "val"))
    return CaptionRecords(train, val, None if config.hub is not None else config.root)


def load_caption_split(config: DataConfig, split: str, of_shapes: bool = False) -> tuple[Dataset, Path | None]:
    """The captions of one split, and the root of their images; `of_shapes`: they are for a model that knows Shapes alone."""
    make_shapes(config)
    if config.hub is not None:
        return read_hub_captions(config.hub.name, config.hub.split(split), config.hub.columns), None
    try:
        return read_captions(config.root, split, config.karpathy), config.root
    except MissingData as error:
        parts = " --parts captions,karpathy,train2014,val2014"
        raise MissingData(_with_remedy(str(error), config, parts, "caption", of_shapes)) from None


def make_shapes(config: DataConfig) -> None:
    """Writes Shapes if the configuration has it and its root is not there."""
    if config.shapes is not None and not config.root.exists():
        write_shapes(config.root, config.shapes)


def load_records(config: DataConfig) -> Records:
    """Training and validation questions. Raises MissingData (what to do is in the message), BadData, ValueError."""
    make_shapes(config)
    if config.hub is not None:
        hub = config.hub
        train, val = (read_hub(hub.name, split, hub.columns) for split in (hub.train, hub.val))
    else:
        try:
            train, val = train_val(config.root, config.held_out)
        except MissingData as error:
            raise MissingData(_with_remedy(str(error), config)) from None
    vocabulary = (
        AnswerVocabulary.from_file(config.vocabulary)
        if config.vocabulary is not None
        else build_vocabulary(answer_counts(train), config.min_count)
    )
    root = None if config.hub is not None else config.root
    return Records(with_labels(train, vocabulary), with_labels(val, vocabulary), vocabulary, root)


def load_split(
    config: DataConfig, split: str, vocabulary: AnswerVocabulary, of_shapes: bool = False
) -> tuple[Dataset, Path | None]:
    """The questions of one split to evaluate on ("val" is what training held out), and the root of their images.

    `of_shapes`: they are for a model that knows Shapes alone, for whoever lacks them.
    """
    make_shapes(config)
    try:
        if config.hub is not None:
            records, root = read_hub(config.hub.name, config.hub.split(split), config.hub.columns), None
        elif split == "val":
            records, root = train_val(config.root, config.held_out)[1], config.root
        else:
            records, root = read_official(config.root, split), config.root
    except MissingData as error:
        parts = " --parts questions,test2015" if split.startswith("test") else ""
        raise MissingData(_with_remedy(str(error), config, parts, of_shapes=of_shapes)) from None
    return with_labels(records, vocabulary), root


def build_vocabulary(counts: Counter[str], min_count: int) -> AnswerVocabulary:
    """Answers that occur at least `min_count` times; in a small data set, as often as it takes to cover 90 % of it.

    Raises ValueError where there are no answers.
    """
    total = counts.total()
    if not total:
        raise ValueError("the training questions have no answers, so there is nothing to learn")
    while min_count > 1 and sum(n for n in counts.values() if n >= min_count) < COVERAGE * total:
        min_count -= 1
    return AnswerVocabulary.from_counts(counts, min_count)


class Images:
    """The distinct images of records; `of_row[i]` is the number of row i's image."""

    def __init__(self, records: Dataset, root: Path | None) -> None:
        self._records, self._root = records, root
        self._names: Sequence[str] = []
        if root is not None:
            encoded = column(records, "image").combine_chunks().dictionary_encode()
            self._names, self.of_row = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
            self._first = np.arange(len(self._names))
        else:
            ids = column(records, "image_id").to_numpy()
            _, self._first, self.of_row = np.unique(ids, return_index=True, return_inverse=True)

    def __len__(self) -> int:
        return len(self._first)

    def source(self, image: int) -> ImageSource:
        """A path, or the undecoded image of the record."""
        if self._root is not None:
            return self._root / self._names[image]
        return self._records[int(self._first[image])]["image"]


def without_missing_images(records: Dataset, root: Path | None) -> tuple[Dataset, int]:
    """The rows whose image file is there, and how many are not. Raises MissingData if none is."""
    missing = set(missing_images(records, root)) if root is not None else set()
    if not missing:
        return records, 0
    names = column(records, "image").combine_chunks().dictionary_encode()
    gone = np.array([name in missing for name in names.dictionary.to_pylist()])[names.indices.to_numpy()]
    if gone.all():
        assert root is not None
        message = f"none of the {len(gone)} texts has its image: looked for {root / min(missing)} and others"
        folder = Path(min(missing)).parts[0]
        known = (
            f"; fetch them with: python -m clipmapper.download --root {root} --parts {folder}"
            if folder in PARTS
            else ""
        )
        raise MissingData(message + known)
    return records.select(np.flatnonzero(~gone)), int(gone.sum())


def _with_remedy(message: str, config: DataConfig, parts: str = "", task: str = "vqa", of_shapes: bool = False) -> str:
    if of_shapes or config.shapes is not None or (config.root / "shapes.json").is_file():
        there = config.root.exists() or config.root == DataConfig.root
        folder = Path("data/shapes") if there else config.root
        return (
            f"{message}\n"
            f"Write Shapes with: python -m clipmapper.data.shapes --root {folder}\n"
            f"and name its folder: --data.root {folder}"
        )
    return (
        f"{message}\n"
        f"Fetch the official files with: python -m clipmapper.download --root {config.root}{parts}\n"
        "or name another folder with --data.root DIR,\n"
        f"or train on the embedded data set: python train.py --config mapper_b_{task}_shapes"
    )
