"""Reading caption files: real samples, Karpathy's splits in both forms, broken files; and Hub data sets."""

import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from clipmapper.config import DataConfig, HubConfig, ShapesConfig
from clipmapper.data.coco import FEATURES, read_captions
from clipmapper.data.files import BadData, MissingData
from clipmapper.data.hub_captions import read_hub_captions
from clipmapper.data.records import Images, load_caption_split, load_captions
from clipmapper.images import load_image


def write(root: Path, folder: str, *captions: tuple[int, int, str]) -> Path:
    """Captions as (id, image, text)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    entries = [{"id": i, "image_id": image, "caption": text} for i, image, text in captions]
    (root / "annotations" / f"captions_{folder}.json").write_text(json.dumps({"info": {}, "annotations": entries}))
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Images 1 and 2 in train2014, 3 and 4 in val2014."""
    write(tmp_path, "train2014", (10, 1, "A cat. "), (11, 2, "a dog"), (12, 1, "one cat"))
    return write(tmp_path, "val2014", (13, 3, "a bird"), (14, 4, "a fish"), (15, 3, "one bird"))


def read(root: Path, split: str, karpathy: Path | None = None) -> Dataset:
    return read_captions(root, split, karpathy, cache_dir=root / "cache")


@pytest.fixture(scope="module")
def sample(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for file in (shared_data / "annotations").glob("captions_*.json"):
        shutil.copy(file, root / "annotations")
    for folder in ("train2014", "val2014"):
        (root / folder).symlink_to(shared_data / "images" / folder)
    return root


def test_real_files_as_their_own_splits(sample: Path) -> None:
    train, val = read(sample, "train"), read(sample, "val")
    assert train.features == val.features == FEATURES
    assert (len(train), len(val)) == (125, 225)
    assert len(Images(train, sample)) == 25 and len(Images(val, sample)) == 45
    row = next(row for row in val if row["image_id"] == 139)
    assert row["image"] == "val2014/COCO_val2014_000000000139.jpg" and (sample / row["image"]).is_file()


def test_real_karpathy_splits(sample: Path, shared_data: Path) -> None:
    """restval joins train: most of val2014 is trained on."""
    parts = {split: read(sample, split, shared_data / "karpathy") for split in ("train", "val", "test")}
    images = {split: set(part["image_id"]) for split, part in parts.items()}
    assert sum(map(len, images.values())) == 70 and not images["train"] & (images["val"] | images["test"])
    assert sum(len(part) for part in parts.values()) == 350
    assert {row["image"].split("/")[0] for row in parts["train"]} == {"train2014", "val2014"}
    with pytest.raises(BadData, match=r"dataset_coco\.json: none of its 1 test images has a caption"):
        read(sample, "test", shared_data / "karpathy" / "dataset_coco.json")


def test_karpathy_file_and_lists_agree(small: Path) -> None:
    splits = {1: "train", 2: "val", 3: "restval", 4: "test"}
    names = {i: f"COCO_{'train' if i < 3 else 'val'}2014_{i:012d}.jpg" for i in splits}
    images = [{"cocoid": i, "split": s, "filename": names[i], "sentences": []} for i, s in splits.items()]
    (small / "dataset_coco.json").write_text(json.dumps({"images": images}))
    lists = small / "lists"
    lists.mkdir()
    (lists / "coco_train.txt.gz").write_bytes(gzip.compress(f"{names[1]}\n{names[3]}\n".encode()))
    (lists / "coco_val.txt").write_text(names[2] + "\n")
    (lists / "coco_test.txt").write_text(names[4])
    expected = {"train": [10, 12, 13, 15], "val": [11], "test": [14]}
    for split, ids in expected.items():
        for karpathy in (small / "dataset_coco.json", lists):
            assert read(small, split, karpathy)["caption_id"][:] == ids


def test_texts_are_stripped_and_plain_file_names_found(small: Path) -> None:
    (small / "train2014").mkdir()
    (small / "train2014" / "2.png").touch()
    train = read(small, "train")
    assert train["caption"][:] == ["A cat.", "a dog", "one cat"]
    assert train["image"][:2] == ["train2014/COCO_train2014_000000000001.jpg", "train2014/2.png"]


def test_there_is_no_test_split_without_karpathy(small: Path) -> None:
    with pytest.raises(ValueError, match=r"'test': captions have train, val; .*data\.karpathy"):
        read(small, "test")


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as error:
        load_captions(DataConfig(root=tmp_path / "no", karpathy=tmp_path / "no" / "dataset_coco.json"))
    for part in (
        f"{tmp_path / 'no' / 'dataset_coco.json'}: missing",
        f"{tmp_path / 'no' / 'annotations' / 'captions_val2014.json'}: missing",
        f"python -m clipmapper.download --root {tmp_path / 'no'} --parts captions,karpathy,train2014,val2014",
        "--config mapper_b_caption_shapes",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"annotations": [{"id": 1, "image_id": 2, "caption": "a', "truncated"),
        ('{"annotations": []}', "no entries"),
        ('{"annotations": [{"id": 1, "image_id": "x", "caption": "a"}]}', "'image_id' is 'x'.*expected type int"),
        ('{"annotations": [{"id": 1, "image_id": 1}]}', "'caption' is None"),
    ],
)
def test_broken_files_are_named(small: Path, content: str, complaint: str) -> None:
    (small / "annotations" / "captions_train2014.json").write_text(content)
    with pytest.raises(BadData, match=rf"captions_train2014\.json: .*{complaint}"):
        read(small, "train")


def test_list_that_is_none(small: Path) -> None:
    (small / "coco_val.txt").write_text("a dog\na cat\n")
    with pytest.raises(BadData, match=r"coco_val\.txt: not a list of image names"):
        read(small, "val", small)


def test_shapes_are_made_and_captioned(tmp_path: Path) -> None:
    config = DataConfig(root=tmp_path / "s", shapes=ShapesConfig(train=3, val=2, test=0, questions=1))
    records = load_captions(config)
    assert (len(records.train), len(records.val), records.root) == (15, 10, config.root)
    assert load_caption_split(config, "val")[0]["caption"][:] == records.val["caption"][:]


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Pillow.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


COLOURS = ("red", "lime", "blue")


def saved(folder: Path, kind: object, captions: list) -> str:
    rows = {"img": [{"bytes": png(c), "path": None} for c in COLOURS], "text": captions}
    Dataset.from_dict(rows, features=Features(img=Image(), text=kind)).save_to_disk(folder / "saved")
    return str(folder / "saved")


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (List(Value("string")), str),
        (List({"raw": Value("string"), "sentid": Value("int64")}), lambda t: {"raw": t, "sentid": 1}),
    ],
)
def test_hub_rows_with_several_captions(tmp_path: Path, kind: object, wrap: type) -> None:
    captions = [["a", "b "], [], ["c", "d", "e"]]
    name = saved(tmp_path, kind, [[wrap(text) for text in some] for some in captions])
    records = read_hub_captions(name, "train", {"image": "img", "caption": "text"}, cache_dir=tmp_path / "cache")
    assert records.column_names == list(FEATURES)
    assert records["caption"][:] == ["a", "b", "c", "d", "e"] and records["image_id"][:] == [0, 0, 2, 2, 2]
    assert len(set(records["caption_id"])) == 5
    shown = [load_image(row["image"]).getpixel((0, 0)) for row in records]
    assert shown == [(255, 0, 0)] * 2 + [(0, 0, 255)] * 3


def test_hub_rows_with_one_caption(tmp_path: Path) -> None:
    name = saved(tmp_path, Value("string"), ["one", "two", "three"])
    config = DataConfig(hub=HubConfig(name, columns={"image": "img", "caption": "text"}))
    records = load_captions(config)
    assert records.root is None and records.train["caption"][:] == ["one", "two", "three"]
    with pytest.raises(ValueError, match="no column for 'caption'"):
        read_hub_captions(name, "train", {"image": "img"}, cache_dir=tmp_path / "cache")
    with pytest.raises(BadData, match=r"column 'img': .*expected caption texts"):
        read_hub_captions(name, "train", {"image": "img", "caption": "img"}, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "part", [lambda packed: packed[:20], lambda packed: b"COCO", lambda packed: packed[:-9] + bytes(9)]
)
def test_damaged_packed_lists_are_named(small: Path, part: Callable[[bytes], bytes]) -> None:
    (small / "lists").mkdir()
    (small / "lists" / "coco_test.txt.gz").write_bytes(part(gzip.compress(b"COCO_val2014_000000000003.jpg\n")))
    with pytest.raises(BadData, match=r"coco_test\.txt\.gz: cut or damaged .*; fetch it anew"):
        read(small, "test", small / "lists")


@pytest.mark.parametrize("content", [b"\xff.jpg", b"COCO_val2014_" + b"3" * 5000 + b".jpg", b"COCO_val2014_7.jpg"])
def test_other_lists_are_named(small: Path, content: bytes) -> None:
    (small / "lists").mkdir()
    (small / "lists" / "coco_test.txt").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"coco_test\.txt: (not UTF-8|not a list of image names|none of its 1 test images)"
    ):
        read(small, "test", small / "lists")


def test_captions_and_images_given_twice_are_refused(small: Path) -> None:
    (small / "dataset_coco.json").write_text(
        json.dumps({"images": [{"cocoid": 3, "split": s} for s in ("test", "train")]})
    )
    with pytest.raises(BadData, match=r"dataset_coco\.json: cocoid 3 is there twice"):
        read(small, "test", small / "dataset_coco.json")
    write(small, "val2014", (13, 3, "a bird"), (13, 3, "a bird"))
    with pytest.raises(BadData, match=r"captions_val2014\.json: id 13 is there twice; expected each once"):
        read(small, "val")
