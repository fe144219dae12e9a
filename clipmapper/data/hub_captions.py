"""Any captioned data set of the Hugging Face Hub, or of a local folder, in the columns of `coco.FEATURES`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, concatenate_datasets
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher

from clipmapper.data.coco import FEATURES
from clipmapper.data.files import BadData, column
from clipmapper.data.hub import image_column, matched_columns, open_hub

MOST = 1000  # captions of an image


def read_hub_captions(
    name: str, split: str, columns: Mapping[str, str], cache_dir: str | Path | None = None
) -> Dataset:
    """Captions of one split; `columns` maps a record column to the data set's own name for it.

    `name` is as in `hub.read_hub`. A row of the data set may have one caption or a list of them, as texts or as objects
    with "raw" or "caption". Without ids, images and captions are numbered. Raises ValueError, BadData as `read_hub` does.
    """
    cache = Path(cache_dir or HF_DATASETS_CACHE)
    source = open_hub(name, split, cache)
    columns = matched_columns(source, columns, name, FEATURES, required=("caption", "image"))
    fingerprint = Hasher.hash([source._fingerprint, sorted(columns.items()), Path(__file__).read_bytes()])
    images = image_column(source, columns["image"], name)
    texts = source.select_columns(sorted({column for record, column in columns.items() if record != "image"}))
    most = _most(texts, columns["caption"], name)
    # The n-th captions of all images beside the images, for each n: so the images, often gigabytes, are not copied.
    parts = [
        concatenate_datasets([_nth_captions(texts, n, columns, name, fingerprint, cache), images], axis=1)
        for n in range(most)
    ]
    every = concatenate_datasets(parts).select_columns(list(FEATURES))
    order = np.arange(len(every)).reshape(most, -1).T.ravel()  # image by image
    there = column(every, "caption").is_valid().to_numpy()
    return every.select(order[there[order]])


def _most(texts: Dataset, column: str, name: str) -> int:
    """The largest number of captions of a row. Raises BadData for a column that holds none, or no texts."""
    try:
        most = max((len(_texts(value)) for value in texts[column]), default=0)
    except TypeError as error:
        raise BadData(f"{name}: column {column!r}: {error!r}; expected caption texts") from error
    if not most:
        raise BadData(f"{name}: column {column!r} holds no captions")
    return most


def _nth_captions(
    texts: Dataset, n: int, columns: Mapping[str, str], name: str, fingerprint: str, cache: Path
) -> Dataset:
    """The n-th caption of each row, none where there are fewer."""
    return texts.map(
        _records,
        batched=True,
        with_indices=True,
        fn_kwargs={"n": n, "columns": columns, "name": name},
        remove_columns=texts.column_names,
        features=Features({record: kind for record, kind in FEATURES.items() if record != "image"}),
        new_fingerprint=f"{fingerprint}{n}",
        cache_file_name=str(cache / f"captions-{fingerprint}-{n}.arrow"),  # a saved data set's folder may be read-only
        desc="Reading captions",
    )


def _records(batch: dict[str, list], rows: list[int], n: int, columns: Mapping[str, str], name: str) -> dict[str, list]:
    try:
        texts = [_texts(value) for value in batch[columns["caption"]]]
        images = [int(value) for value in (batch[columns["image_id"]] if "image_id" in columns else rows)]
    except (TypeError, ValueError) as error:
        message = f"{name}, rows {rows[0]} to {rows[-1]}: {error!r}; expected integer ids and caption texts"
        raise BadData(message) from error
    return {
        "caption_id": batch[columns["caption_id"]] if "caption_id" in columns else [MOST * row + n for row in rows],
        "image_id": images,
        "caption": [some[n].strip() if n < len(some) else None for some in texts],
    }


def _texts(value: Any) -> list[str]:
    """Texts from none, a text, texts, or objects with "raw" or "caption"."""
    values = [value] if isinstance(value, str | Mapping) else value or []
    texts = [v.get("raw", v.get("caption")) if isinstance(v, Mapping) else v for v in values]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"captions {texts!r}")
    return texts
