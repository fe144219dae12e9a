"""Shapes as a data set of the Hugging Face hub, with its ground truth: which objects and which words decide each answer."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from clipmapper.data.coco import read_captions
from clipmapper.data.files import MissingData
from clipmapper.data.official import FEATURES, read_official
from clipmapper.data.shapes.truth import Truth
from xai.files import read_json, replacing

SPLITS = {"train": ("train", "train2014"), "validation": ("val", "val2014"), "test": ("test", "test2015")}
COLUMNS = Features(
    {
        **FEATURES,
        "image": Image(),
        "caption": List(Value("string")),  # of the image, on the first of its questions alone
        "deciding_boxes": List(List(Value("float32"))),  # x, y, width, height in pixels
        "deciding_outlines": List(List(Value("float32"))),  # x, y, x, y, ... in shares of the picture's side
        "deciding_words": List({"start": Value("int32"), "stop": Value("int32"), "word": Value("string")}),
    }
)
CARD = """---
{{ card_data }}
---

# Shapes

Rendered scenes with questions of eight families and captions, written by CLIPmapper. For every question of `train` and
`validation` the truth says which objects and which words decide the answer, so that explanations can be checked against it.

| column | what it holds |
| --- | --- |
| `image`, `question`, `answers`, `answer`, `question_type`, `answer_type` | as in VQAv2; ten equal answers |
| `caption` | captions of the image, on the first row of each image alone, so that each is read once |
| `deciding_boxes` | of each deciding object x, y, width, height in pixels |
| `deciding_outlines` | its corners x, y, x, y, ... in shares of the picture's side: its mask as a polygon |
| `deciding_words` | first character, the one after the last, and the word |

The answers of `test` are not public.

```sh
clipmapper train --config mapper_b_vqa_shapes --data.root data/vqav2 --data.shapes null --data.hub.name {{ name }}
```

Settings: `{{ settings }}`.
"""


def write_folder(root: Path, folder: Path, name: str | None = None) -> None:
    """Writes Shapes as the hub holds it: a Parquet file for each split, and the card.

    `load_dataset` reads the folder, as does `--data.hub.name FOLDER`.

    Args:
        root: folder that `write_shapes` wrote.
        folder: to write; must not exist, or be empty.
        name: of the data set on the hub, for its card; the folder's without.

    Raises:
        FileExistsError: the folder holds something.
        MissingData, BadData: `root` is no Shapes.

    Example:
        >>> from clipmapper.data.shapes.hub import write_folder
        >>> write_folder(Path("data/shapes"), Path("shapes-for-the-hub"))  # doctest: +SKIP
    """
    root, folder = Path(root), Path(folder)
    if not (root / "shapes.json").is_file():
        raise MissingData(f"{root} is not Shapes: write it with python -m clipmapper.data.shapes --root {root}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something already: remove it, or choose another folder")
    settings = read_json(root / "shapes.json", "write Shapes anew")
    data_files = []
    for split, (own, images) in SPLITS.items():
        if not (root / f"v2_OpenEnded_mscoco_{images}_questions.json").is_file():
            continue
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        with tempfile.TemporaryDirectory() as cache, replacing(path) as temporary:
            rows = Dataset.from_generator(
                _rows,
                COLUMNS,
                gen_kwargs={"root": root, "split": own, "images": images},
                cache_dir=cache,
                split=split,
            )
            rows.to_parquet(temporary)
        data_files.append({"split": split, "path": f"data/{split}-*"})
    card = DatasetCard.from_template(
        _card_data(data_files), template_str=CARD, name=name or folder.as_posix(), settings=settings
    )
    with replacing(folder / "README.md") as temporary:
        card.save(temporary)


def push_to_hub(root: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Uploads Shapes as a data set in one commit; returns its address.

    Args:
        root: folder that `write_shapes` wrote.
        repo_id: owner/name.
        private: whether only its owner sees it, if it is new.
        token: of the hub; that of `hf auth login` without.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(root, Path(folder), repo_id)
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message="Shapes with its ground truth"
        )
    return str(address)


def _card_data(data_files: list[dict[str, str]]) -> DatasetCardData:
    return DatasetCardData(
        pretty_name="Shapes",
        license="cc0-1.0",  # generated: free of rights
        language="en",
        task_categories=["visual-question-answering", "image-to-text"],
        annotations_creators="machine-generated",
        tags=["explainability", "synthetic", "clipmapper"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )


def _rows(root: Path, split: str, images: str) -> Iterator[dict[str, Any]]:
    records = read_official(root, split)
    truth, boxes, captions = None, dict[int, list[float]](), dict[int, list[str]]()
    if not split.startswith("test"):
        truth = Truth(root, images)
        instances = read_json(root / "annotations" / f"instances_{images}.json")["annotations"]
        boxes = {entry["id"]: entry["bbox"] for entry in instances}
        for row in read_captions(root, split):
            captions.setdefault(row["image_id"], []).append(row["caption"])
    for row in records:
        key, text, path = row["question_id"], row["question"], root / row["image"]
        yield {
            **{name: row[name] for name in FEATURES},
            "image": {"bytes": path.read_bytes(), "path": path.name},
            "caption": captions.pop(row["image_id"], []),
            "deciding_boxes": [boxes[i] for i in truth.instances(key)] if truth else [],
            "deciding_outlines": [corners.ravel().tolist() for corners in truth.outlines(key)] if truth else [],
            "deciding_words": [
                {"start": start, "stop": stop, "word": text[start:stop]} for start, stop in truth.words(key, text)
            ]
            if truth
            else [],
        }
