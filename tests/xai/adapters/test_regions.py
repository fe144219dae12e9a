"""Files as the published ones are, against a literal reading of them; and what is wrong with others."""

import base64
import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xai import explain
from xai.adapters.regions import Regions, RegionTable, lxmert_inputs, read_npz, visualbert_inputs

from ..conftest import build

WIDTH, HEIGHT = 640, 480
Line = list[str]


def arrays(seed: int, count: int = 36, size: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2, 2)) * [WIDTH, HEIGHT]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    return boxes, rng.random((count, size)).astype(np.float32)


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def bottom_up(image: str, seed: int, **change: str) -> Line:
    boxes, features = arrays(seed)
    fields = {"image_id": image, "image_w": str(WIDTH), "image_h": str(HEIGHT), "num_boxes": "36"}
    return list({**fields, "boxes": text(boxes), "features": text(features), **change}.values())


def lxmert(image: str, seed: int) -> Line:
    boxes, features = arrays(seed)
    objects = text(np.arange(36)), text(np.ones(36, np.float32))
    return [image, str(HEIGHT), str(WIDTH), *objects, *objects, "36", text(boxes), text(features)]


def write(path: Path, *lines: Line) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(lines)
    return path


@pytest.mark.parametrize("line", [bottom_up, lxmert])
def test_tables(tmp_path: Path, line: Callable[[str, int], Line]) -> None:
    path = write(tmp_path / "regions.tsv", line("42", 0), line("COCO_val2014_000000000073", 1), line("9", 2))
    table = RegionTable(path)
    assert list(table) == ["42", "COCO_val2014_000000000073", "9"] and len(table) == 3
    for table_again in (table, pickle.loads(pickle.dumps(table))):  # as workers of a data loader get it
        found = table_again["COCO_val2014_000000000073"]
        boxes, features = arrays(1)
        assert (found.image, found.size) == ("COCO_val2014_000000000073", (HEIGHT, WIDTH))
        assert np.array_equal(found.boxes.numpy(), boxes)
        assert np.array_equal(found.features.numpy(), features)
    assert [regions.image for regions in table.values()] == list(table)
    with pytest.raises(KeyError, match="43"):
        table["43"]


def test_a_table_holds_places_not_regions(tmp_path: Path) -> None:
    path = write(tmp_path / "regions.tsv", *(bottom_up(str(i), i) for i in range(5)))
    assert path.stat().st_size > 1_000_000 and len(pickle.dumps(RegionTable(path))) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_w": "wide"}, r"line 2 \(image 7\): width is b'wide', not a positive whole number"),
        ({"num_boxes": "0"}, "count is b'0'"),
        ({"image_h": "9" * 5000}, "height is b'9999"),
        ({"num_boxes": "35"}, "bytes, which are no float32 numbers for 35 boxes"),
        ({"features": "AAA"}, "features are not base64"),
        ({"features": text(np.full((36, 2), np.nan, np.float32))}, "features are not all finite"),
        ({"boxes": text(np.ones((36, 3), np.float32))}, r"boxes of shape \[36, 3\]"),
        ({"image_w": "20"}, "not x1, y1, x2, y2 in an image of 20 x 480"),
        ({"boxes": text(arrays(1)[0][:, [2, 3, 0, 1]])}, "not x1, y1, x2, y2"),
        ({"boxes": text(arrays(1)[0] / 640)}, "shares of the image already"),
        ({"more": ""}, "7 fields, expected 6"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path: Path, change: dict[str, str], message: str) -> None:
    table = RegionTable(write(tmp_path / "regions.tsv", bottom_up("5", 0), bottom_up("7", 1, **change)))
    assert table["5"].features.shape == (36, 2048)
    with pytest.raises(ValueError, match=message) as caught:
        table["7"]
    assert str(tmp_path / "regions.tsv") in str(caught.value) and "drop the line" in str(caught.value)


def test_a_truncated_table(tmp_path: Path) -> None:
    path = write(tmp_path / "regions.tsv", bottom_up("5", 0), bottom_up("7", 1))
    path.write_bytes(path.read_bytes()[:-1000])
    table = RegionTable(path)
    assert len(table["5"].boxes) == 36
    with pytest.raises(ValueError, match="line 2"):
        table["7"]


def test_an_image_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lines 1 and 3: both of image 5; remove one"):
        RegionTable(write(tmp_path / "regions.tsv", bottom_up("5", 0), bottom_up("7", 1), bottom_up("5", 1)))


@pytest.mark.parametrize("openvqa", [True, False])
def test_npz(tmp_path: Path, openvqa: bool) -> None:
    boxes, features = arrays(3, 10)
    sizes = {"image_h": HEIGHT, "image_w": WIDTH}
    if openvqa:  # its info is pickled, and must not be read
        np.savez_compressed(tmp_path / "42.npz", x=features.T, bbox=boxes, info=np.array({"a": 1}), **sizes)
    else:
        np.savez(tmp_path / "42.npz", features=features, boxes=boxes.astype(np.float64), **sizes)
    found = read_npz(tmp_path / "42.npz")
    assert (found.image, found.size) == ("42", (HEIGHT, WIDTH))
    assert np.array_equal(found.boxes.numpy(), boxes)
    assert np.array_equal(found.features.numpy(), features)


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    boxes, features = arrays(3, 10)
    path = tmp_path / "42.npz"
    with pytest.raises(FileNotFoundError):
        read_npz(path)
    np.savez(path, x=features, bbox=boxes, image_h=HEIGHT)
    with pytest.raises(ValueError, match=r"42\.npz: no array 'image_w' or 'image_width' or 'img_w' among 'x', 'bbox'"):
        read_npz(path)
    np.savez(path, x=features[:9], bbox=boxes, image_h=HEIGHT, image_w=WIDTH)
    with pytest.raises(ValueError, match="do not belong together; extract"):
        read_npz(path)
    np.savez(path, x=features[:0], bbox=boxes[:0], image_h=HEIGHT, image_w=WIDTH)
    with pytest.raises(ValueError, match="no boxes"):
        read_npz(path)
    np.savez(path, x=1.0, bbox=2.0, image_h=HEIGHT, image_w=WIDTH)
    with pytest.raises(ValueError, match=r"boxes of shape \[\]"):
        read_npz(path)
    np.savez(path, x=features, bbox=boxes, image_h=HEIGHT, image_w=WIDTH)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"42\.npz: not an npz file, or a truncated one"):
        read_npz(path)
    path.write_bytes(whole[:300] + bytes(8) + whole[308:])
    with pytest.raises(ValueError, match=r"42\.npz: damaged"):
        read_npz(path)


def regions(count: int, size: int, seed: int) -> Regions:
    boxes, features = (torch.from_numpy(array) for array in arrays(seed, count, size))
    return Regions(str(seed), (HEIGHT, WIDTH), boxes, features)


def test_inputs_of_lxmert() -> None:
    batch = [regions(4, 6, 0), regions(3, 6, 1)]
    inputs = lxmert_inputs(batch)
    x1, y1, x2, y2 = batch[0].boxes[2].tolist()
    expected = torch.tensor([x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT])
    torch.testing.assert_close(inputs["visual_pos"][0, 2], expected)
    assert torch.equal(inputs["visual_feats"][1, :3], batch[1].features)
    assert inputs["visual_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert inputs["visual_pos"].shape == (2, 4, 4) and not inputs["visual_pos"][1, 3].any()


@pytest.mark.parametrize(("family", "inputs_of"), [("lxmert", lxmert_inputs), ("visualbert", visualbert_inputs)])
def test_models_take_them(family: str, inputs_of: Callable[[list[Regions]], dict[str, torch.Tensor]]) -> None:
    built = build(family)
    batch = [regions(4, 6, 0), regions(3, 6, 1)]
    words = {name: built.inputs[name] for name in ("input_ids", "attention_mask")}
    result = explain(built.model.float(), {**words, **inputs_of(batch)}, "genatt", built.target)
    result = result.with_boxes([r.boxes for r in batch])
    assert result["regions"].mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert torch.equal(result["regions"].boxes[1, :3], batch[1].boxes)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x", np.array(["a"]), "features are of type <U1, not numbers"),
        ("bbox", np.array([{}], object), "damaged .*pickle"),
        ("x", np.array(2.0), r"boxes of shape \[10, 4\] and features of \[\]"),
        ("image_w", np.array([1, 2]), r"width is \[1 2\], not a positive whole number of pixels"),
        ("image_w", np.array(np.nan), "width is nan"),
        ("image_h", np.array(-3), "height is -3"),
        ("image_h", np.array("480"), "height are of type <U3"),
        ("image_h", np.array(2**63, np.uint64), "height is 9223372036854775808"),
        ("bbox", np.full((10, 4), 1e300), "boxes are not x1, y1, x2, y2"),
    ],
)
def test_arrays_of_other_types_are_named(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    boxes, features = arrays(3, 10)
    np.savez(tmp_path / "42.npz", **{"x": features, "bbox": boxes, "image_h": 480, "image_w": 640, name: array})
    with pytest.raises(ValueError, match=rf"42\.npz: {message}.*; extract the regions of this image anew"):
        read_npz(tmp_path / "42.npz")


def test_a_damaged_directory_of_an_npz_is_named(tmp_path: Path) -> None:
    """A flipped bit there says another place, kind of compression, or that the array is encrypted."""
    np.savez(tmp_path / "42.npz", x=np.ones((2, 4)), bbox=[[0, 0, 9, 9]] * 2, image_h=9, image_w=9)
    content = (tmp_path / "42.npz").read_bytes()
    for place in range(content.index(b"PK\x01\x02"), len(content)):
        (tmp_path / "42.npz").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert (read_npz(tmp_path / "42.npz").features == 1).all()
        except ValueError as error:
            assert "42.npz: " in str(error) and "extract" in str(error)
