"""COCO's annotation files, complete or not: what can be derived is, whatever else does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as rle

from xai.metrics.coco import image_finder
from xai.metrics.instances import read_instances
from xai.metrics.panoptic import panoptic_images

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # three columns of two rows


def written(folder: Path, change: Callable[[dict], object] = lambda truth: None) -> Path:
    """Two images of 8 x 6 with a cat each, after `change`."""
    place = {"segmentation": [SQUARE], "area": 6.5, "bbox": [1, 1, 3, 2], "iscrowd": 0}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} for i in (0, 1)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [{"id": 70 + i, "image_id": i, "category_id": 3, **place} for i in (0, 1)],
    }
    change(truth)
    (folder / "instances.json").write_text(json.dumps(truth))
    return folder / "instances.json"


def test_what_annotations_leave_out_is_derived(tmp_path: Path) -> None:
    def change(truth: dict) -> None:
        for key in ("iscrowd", "area", "bbox", "id"):
            del truth["annotations"][0][key]
        truth["annotations"][1]["iscrowd"] = truth["annotations"][1]["area"] = None

    for entry in read_instances(written(tmp_path, change))["annotations"]:
        assert entry["iscrowd"] == 0 and entry["area"] == 6 and entry["bbox"] == [1, 1, 3, 2]
    assert [entry["area"] for entry in read_instances(written(tmp_path))["annotations"]] == [6.5, 6.5]


def test_whole_numbers_may_be_text_or_end_in_a_zero(tmp_path: Path) -> None:
    def change(truth: dict) -> None:
        for image in truth["images"]:
            image |= {"id": str(image["id"]), "height": "6", "width": 8.0}
        truth["categories"][0]["id"] = "3"
        for entry in truth["annotations"]:
            entry |= {"image_id": float(entry["image_id"]), "category_id": 3.0, "id": "a7"}

    found = read_instances(written(tmp_path, change))
    assert [(entry["image_id"], entry["category_id"]) for entry in found["annotations"]] == [(0, 3), (1, 3)]
    assert [image["id"] for image in found["images"]] == [0, 1] and found["categories"][0]["id"] == 3


def test_objects_are_numbered_from_one(tmp_path: Path) -> None:
    """pycocotools takes the number 0 for "matched to nothing"."""
    path = written(tmp_path, lambda truth: truth["annotations"][0].update(id=0))
    assert [entry["id"] for entry in read_instances(path)["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE, [0, 0, 7, 5]],  # two points enclose nothing
        {"size": [6, 8], "counts": [7, 2, 4, 2, 4, 2, 27]},
        {
            "size": [6, 8],
            "counts": rle.frPyObjects({"size": [6, 8], "counts": [7, 2, 4, 2, 4, 2, 27]}, 6, 8)["counts"].decode(),
        },
    ],
    ids=["polygons", "run lengths", "compressed"],
)
def test_every_kind_of_mask(tmp_path: Path, segmentation: Any) -> None:
    path = written(tmp_path, lambda truth: truth["annotations"][0].update(segmentation=segmentation))
    given, plain = (rle.decode(entry["segmentation"]) for entry in read_instances(path)["annotations"])
    assert (given == plain).all() and int(given.sum()) == 6


def test_an_object_without_a_pixel_is_left_out_aloud(tmp_path: Path) -> None:
    said: list[str] = []
    path = written(tmp_path, lambda truth: truth["annotations"][0].update(segmentation=[[90, 90, 95, 90, 95, 95]]))
    assert [entry["image_id"] for entry in read_instances(path, said.append)["annotations"]] == [1]
    assert len(said) == 1 and "1 objects" in said[0] and "annotation 70" in said[0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": []}, "no segmentation; draw its mask, or take the annotation out"),
    ({"segmentation": None}, "no segmentation"),
    ({"segmentation": [[1, 1, 5, 5]]}, "no polygon of three points"),
    ({"segmentation": SQUARE}, "expected a list of polygons"),
    ({"segmentation": [[*SQUARE, 1]]}, "expected a list of polygons"),
    ({"segmentation": [["1"] * 8]}, "expected a list of polygons"),
    ({"segmentation": "RLE"}, "expected a list of polygons"),
    ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"rows and columns \[8, 6\], its image \[6, 8\]"),
    ({"segmentation": {"size": [6, 8], "counts": [7, 2]}}, "run lengths are not those of 6 x 8 pixels"),
    ({"segmentation": {"size": [6, 8], "counts": "abc"}}, "run lengths are not those"),
    ({"segmentation": {"size": [6, 8], "counts": ""}}, "run lengths are not those"),
    ({"category_id": 9}, "no category 9; add it to its categories or correct the annotation"),
    ({"category_id": "cat"}, "'category_id' is 'cat'; expected a whole number"),
    ({"image_id": 9}, "no image 9; add it to its images or take the annotation out"),
    ({"image_id": 0.5}, "'image_id' is 0.5; expected a whole number"),
    ({"iscrowd": 2}, "'iscrowd' is 2; expected 0 or 1"),
    ({"area": "large"}, "'area' is 'large'"),
    ({"area": -1}, "'area' is -1"),
    ({"area": 10**400}, "'area' is 1000"),
    ({"segmentation": [[1, 1, 2**31, 1, 4, 3]]}, "expected a list of polygons"),  # pycocotools crashes
    ({"segmentation": [[1, 1, 1e308, 1, 4, 3]]}, "expected a list of polygons"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_what_does_not_fit_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = written(tmp_path, lambda truth: truth["annotations"][0].update(values))
    with pytest.raises(ValueError, match=rf"instances\.json: annotation 70: .*{message}"):
        read_instances(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"][0].pop("height"), "image 0: 'height' is None"),
        (lambda t: t["images"][0].update(width=0), "image 0: its size is 0 x 6"),
        (lambda t: t["images"][0].pop("file_name"), "image 0: 'file_name' is None"),
        (lambda t: t["images"][0].update(id=True), "image True: 'id' is True"),
        (lambda t: t["images"][0].update(id="1"), "several images have the id 1; give each its own"),
        (lambda t: t["categories"][0].update(name="dog"), "several categories have the name 'dog'"),
        (lambda t: t.pop("categories"), 'no list of entries under "categories"'),
        (lambda t: t["annotations"].clear(), "no object is left"),
        (lambda t: t["annotations"].append(t["annotations"][0]), "annotation 70: it is there twice; take one out"),
        (lambda t: t["images"][0].update(height=2**40), "image 0: its size is 8 x 1099511627776"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"instances\.json: {message}|has {message}"):
        read_instances(written(tmp_path, change))


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"images": [', b"[1, 2]", b"\xff\xfe", b"null"])
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instances.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"instances\.json"):
        read_instances(tmp_path / "instances.json")


def test_an_instances_file_is_no_panoptic_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"instances\.json: category 'cat' has no 'isthing'"):
        panoptic_images(tmp_path, written(tmp_path), tmp_path)


def test_files_of_coco_are_read(shared_data: Path) -> None:
    said: list[str] = []
    found = read_instances(shared_data / "annotations" / "instances_val2014.json", said.append)
    assert len(found["annotations"]) == 288 and not said


def test_an_image_is_never_taken_for_another(tmp_path: Path) -> None:
    names = (
        "cam_b_0001.jpg",
        "._0002.jpg",
        "0003.txt",
        "0004.JPG",
        "0005.jpg",
        "0005.png",
        "COCO_val2014_000000000042.jpg",
    )
    for name in names:
        (tmp_path / name).touch()
    find = image_finder(tmp_path)
    for name in ("0001.jpg", "0002.jpg", "0003.jpg", "cam/0004.jpg", "b_0001.jpg", "42.jpg"):
        with pytest.raises(FileNotFoundError, match=f"the image {name} is not in"):
            find(name)
    assert find("0004.jpg").name == "0004.JPG" and find("0005.png").name == "0005.png"
    with pytest.raises(ValueError, match=r"0005\.gif may be 0005\.jpg or 0005\.png"):
        find("0005.gif")
    assert find("000000000042.jpg") == find("COCO_val2014_000000000042.png") == tmp_path / names[-1]
    (tmp_path / "000000000007.jpg").touch()
    assert image_finder(tmp_path)("COCO_train2014_000000000007.jpg").name == "000000000007.jpg"


def test_images_lie_in_folders_too(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "1.jpg").touch()
    find = image_finder(tmp_path / "val")
    assert find("b/1.jpg") == find("val/b/1.jpg") == tmp_path / "val" / "b" / "1.jpg"
