import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from xai.figures.geometry import Geometry, shortest, squash
from xai.metrics.coco import image_finder
from xai.metrics.detection import coco_matches, coco_results, coco_summary
from xai.metrics.masks import (
    as_seen,
    imagenet_segmentation,
    mask_folder,
    read_image,
)
from xai.metrics.panoptic import panoptic_images, panoptic_instances
from xai.metrics.segmentation import segmentation_scores, segmentation_summary


def test_imagenet_segmentation(tmp_path: Path) -> None:
    """A file laid out as MATLAB writes it: references to arrays with reversed axes."""
    rng = np.random.default_rng(0)
    pixels, masks = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8), rng.integers(0, 2, (2, 5, 7), dtype=np.uint8)
    with h5py.File(tmp_path / "gtsegs.mat", "w") as file:
        images, cells = (file.create_dataset(f"value/{name}", (2, 1), h5py.ref_dtype) for name in ("img", "gt"))
        for i in range(2):
            images[i, 0] = file.create_dataset(f"refs/image{i}", data=pixels[i].transpose(2, 1, 0)).ref
            mask = file.create_dataset(f"refs/mask{i}", data=masks[i].T)
            cell = file.create_dataset(f"refs/cell{i}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = mask.ref
            cells[i, 0] = cell.ref
    found = imagenet_segmentation(tmp_path / "gtsegs.mat")
    assert len(found) == 2 and [item.name for item in found[1:]] == ["1"]
    with pytest.raises(IndexError):
        found[2]
    for i, (_, image, mask, valid) in enumerate(found):
        assert np.array_equal(np.asarray(image), pixels[i])
        assert np.array_equal(mask.numpy(), masks[i] != 0) and valid.all()


def gtsegs(path: Path, change: Callable[[h5py.File], object] = lambda file: None) -> Path:
    """One image of 7 x 5 and its mask, after `change`."""
    with h5py.File(path, "w") as file:
        cell = file.create_dataset("refs/cell", (1, 1), h5py.ref_dtype)
        cell[0, 0] = file.create_dataset("refs/mask", data=np.ones((7, 5), dtype=np.uint8)).ref
        for name, of in (
            ("img", file.create_dataset("refs/image", data=np.zeros((3, 7, 5), dtype=np.uint8))),
            ("gt", cell),
        ):
            file.create_dataset(f"value/{name}", (1, 1), h5py.ref_dtype)[0, 0] = of.ref
        change(file)
    return path


def without(name: str, shape: tuple[int, ...] | None = None, kind: type = np.uint8) -> Callable[[h5py.File], None]:
    """Takes a data set out, or puts another in its place; one that is referred to keeps its references broken."""

    def change(file: h5py.File) -> None:
        del file[name]
        if shape:
            made = file.create_dataset(name, shape, kind)
            if name == "refs/image":
                file["value/img"][0, 0] = made.ref

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("value/gt"), "has no value/gt"),
        (without("value/img", (2, 1)), r"its images are \(2, 1\), its masks \(1, 1\)"),
        (without("refs/image"), "image 0 cannot be read"),
        (without("refs/image", (3, 9, 5)), "the mask of image 0 has 7 x 5 pixels, the image 9 x 5"),
        (without("refs/image", (5, 7, 5)), "image 0 cannot be read"),
        (without("refs/image", (3, 7, 5), np.uint16), "image 0 cannot be read .*its pixels are uint16"),
    ],
)
def test_other_data_sets_in_gtsegs_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = gtsegs(tmp_path / "gtsegs.mat", change)
    with pytest.raises(ValueError, match=rf"gtsegs\.mat: {message}.*fetch it anew"):
        imagenet_segmentation(path)[0]


def test_other_files_than_gtsegs_are_named(tmp_path: Path) -> None:
    content = gtsegs(tmp_path / "whole.mat").read_bytes()
    assert imagenet_segmentation(tmp_path / "whole.mat")[0].image.size == (7, 5)
    for other in (
        b"",
        b"<!DOCTYPE html>",
        b"MATLAB 5.0 MAT-file".ljust(200),
        content[: len(content) // 2],
        content[:100],
    ):
        (tmp_path / "other.mat").write_bytes(other)
        with pytest.raises(ValueError, match=r"other\.mat: .*expected gtsegs_ijcv\.mat, a MATLAB 7\.3 file"):
            imagenet_segmentation(tmp_path / "other.mat")


def test_grey_images_in_gtsegs(tmp_path: Path) -> None:
    path = gtsegs(tmp_path / "gtsegs.mat", without("refs/image", (7, 5)))
    assert imagenet_segmentation(path)[0].image.mode == "RGB"


def test_mask_folder(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    labels = np.array([[0, 3, 255], [1, 0, 0]], dtype=np.uint8)
    for name in ("b", "a"):
        Image.new("RGB", (3, 2), (9, 9, 9)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(labels).save(tmp_path / "masks" / f"{name}.png")
    found = list(mask_folder(tmp_path / "images", tmp_path / "masks", ignore=255))
    assert [item.name for item in found] == ["a", "b"] and found[0].image.size == (3, 2)
    assert found[0].mask.tolist() == [[False, True, False], [True, False, False]]
    assert found[0].valid.tolist() == [[True, True, False], [True, True, True]]
    assert mask_folder(tmp_path / "images", tmp_path / "masks")[0].mask[0, 2]
    Image.new("RGB", (3, 2)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a.png has 3 channels"):
        mask_folder(tmp_path / "images", tmp_path / "masks")[0]
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image of the name a"):
        mask_folder(tmp_path / "images", tmp_path / "masks")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of images and masks; one image "a" of 3 x 2 without its mask."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 2), (9, 9, 9)).save(tmp_path / "images" / "a.jpg")
    return tmp_path / "images", tmp_path / "masks"


LABELS = np.array([[0, 1, 1], [0, 0, 2]], dtype=np.uint8)


def palette() -> Image.Image:
    image = Image.fromarray(LABELS, "P")
    image.putpalette([9, 9, 9, 0, 0, 0, 255, 255, 255])  # its labels are the indices, whatever their colours
    return image


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(LABELS),
        palette(),
        Image.fromarray(LABELS > 0),
        Image.fromarray(LABELS.astype(np.uint16) * 300),
        Image.fromarray(LABELS.astype(np.int32) * 70_000),
    ],
    ids=["L", "P", "1", "I;16", "I"],
)
def test_masks_of_one_label_a_pixel(pair: tuple[Path, Path], mask: Image.Image) -> None:
    mask.save(pair[1] / "a.tiff")
    assert mask_folder(*pair, ignore=255)[0].mask.tolist() == (LABELS != 0).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "F"])
def test_masks_of_colours_or_fractions_are_refused(pair: tuple[Path, Path], mode: str) -> None:
    Image.fromarray(LABELS).convert(mode).save(pair[1] / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff has .*(one label a pixel|save masks as PNG)"):
        mask_folder(*pair)[0]


def test_masks_that_were_compressed_with_loss_are_refused(pair: tuple[Path, Path]) -> None:
    Image.fromarray(LABELS).save(pair[1] / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg has no whole labels"):
        mask_folder(*pair)[0]


def test_masks_of_several_pages_or_to_be_turned_are_refused(pair: tuple[Path, Path]) -> None:
    images, masks = pair
    mask = Image.fromarray(np.ones((4, 6), dtype=np.uint8))
    mask.save(masks / "a.tif", save_all=True, append_images=[mask])
    with pytest.raises(ValueError, match=r"a\.tif has 2 pages; a mask is one picture"):
        mask_folder(images, masks)[0]
    (masks / "a.tif").unlink()
    turned = Image.Exif()
    turned[0x112] = 3
    mask.save(masks / "a.png", exif=turned)
    with pytest.raises(ValueError, match=r"a\.png is stored turned \(EXIF orientation 3\)"):
        mask_folder(images, masks)[0]


def test_a_mask_has_the_size_of_its_image(pair: tuple[Path, Path]) -> None:
    Image.fromarray(LABELS).resize((6, 4)).save(pair[1] / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png has 6 x 4 pixels, its image .*a\.jpg 3 x 2; make their sizes the same"
    ):
        mask_folder(*pair)[0]


@pytest.mark.parametrize(
    ("orientation", "size", "fits"),
    [(6, (2, 3), False), (6, (3, 2), True), (3, (3, 2), False), (1, (3, 2), True)],
)
def test_masks_of_turned_photos(pair: tuple[Path, Path], orientation: int, size: tuple[int, int], fits: bool) -> None:
    """A photo is read as it is stored: a mask of that shape fits, if no other way of lying has that shape."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (3, 2)).save(pair[0] / "a.jpg", exif=exif)
    Image.new("L", size, 1).save(pair[1] / "a.png")
    if fits:
        assert mask_folder(*pair)[0].mask.all()
    else:
        with pytest.raises(ValueError, match=rf"a\.jpg is stored turned \(EXIF orientation {orientation}\): save it"):
            mask_folder(*pair)[0]


def test_masks_of_which_every_object_is_ignored_are_refused(pair: tuple[Path, Path]) -> None:
    Image.fromarray((LABELS > 0).astype(np.uint8) * 255).save(pair[1] / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: its only label but 0 is 255.*--ignore null if 255 is the object"):
        mask_folder(*pair, ignore=255)[0]
    assert mask_folder(*pair)[0].mask.tolist() == (LABELS != 0).tolist()
    Image.new("L", (3, 2)).save(pair[1] / "a.png")
    assert not mask_folder(*pair, ignore=255)[0].mask.any(), "an image without object hides nothing"


def test_files_of_the_system_are_no_masks(pair: tuple[Path, Path]) -> None:
    Image.fromarray(LABELS).save(pair[1] / "a.png")
    for name in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini"):
        for folder in pair:
            (folder / name).write_bytes(b"no image")
    (pair[0] / "a.xml").touch()  # beside an image
    (found,) = mask_folder(*pair)
    assert found.name == "a" and found.mask.any()
    Image.new("RGB", (3, 2)).save(pair[0] / "a.PNG")
    with pytest.raises(ValueError, match=r"a\.PNG and .*a\.jpg have one name"):
        mask_folder(*pair)


def test_damaged_images_and_masks_are_named(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = pair[1] / "a.png"
    for content in (b"", b"no image", damaged_png()):
        mask.write_bytes(content)
        with pytest.raises(OSError, match=r"a\.png: not a readable image"):
            mask_folder(*pair)[0]
    Image.fromarray(LABELS).save(mask)
    (pair[0] / "a.jpg").write_bytes(damaged_png())
    with pytest.raises(OSError, match=r"a\.jpg: not a readable image"):
        mask_folder(*pair)[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(OSError, match=r"a\.png: not a readable image.*decompression bomb"):
        mask_folder(*pair)[0]


def damaged_png() -> bytes:
    """With a chunk without a name, of which Pillow makes a SyntaxError."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(content, "PNG")
    head, first, rest = content.getvalue().partition(b"IDAT")
    return head + first + rest.replace(b"IDAT", bytes(4), 1)


def test_images_of_16_bits_are_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(LABELS.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: its mode is I"):
        read_image(tmp_path / "deep.png")


def test_coco_panoptic_images(shared_data: Path) -> None:
    folder = shared_data / "annotations"
    source = panoptic_images(
        shared_data / "images" / "val2014", folder / "panoptic_val2017.json", folder / "panoptic_val2017"
    )
    assert len(source) == 9
    name, image, mask, valid = source[0]
    assert name == "285" and image.size == mask.shape[::-1] and not (mask & ~valid).any()
    assert int(mask.sum()) == 275_827  # the bear's area in the file
    summary = segmentation_summary(segmentation_scores(mask[None].float(), mask[None], valid[None]))
    assert [float(summary[name]) for name in ("pixel_accuracy", "miou", "map")] == [1, 1, 1]


@pytest.fixture
def panoptic(tmp_path: Path) -> tuple[Path, Path]:
    """One image of 4 x 6: a cat of 4 pixels, a crowd of cats of 2, grass, and nothing in the first row."""
    ids = np.zeros((4, 6), dtype=int)
    ids[1:3, 1:3], ids[3, 4:], ids[3, :4] = 70_000, 5, 300
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
    (tmp_path / "truth").mkdir()
    Image.fromarray(pixels).save(tmp_path / "truth" / "9.png")
    kinds = {70_000: (3, 0, 4, [1, 1, 2, 2]), 5: (3, 1, 2, [4, 3, 2, 1]), 300: (8, 0, 4, [0, 3, 4, 1])}
    keys = ("category_id", "iscrowd", "area", "bbox")
    segments = [{"id": i, **dict(zip(keys, values, strict=True))} for i, values in kinds.items()]
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 8, "name": "grass", "isthing": 0}]
    described = {
        "images": [{"id": 9, "file_name": "9.jpg", "height": 4, "width": 6}],
        "categories": categories,
        "annotations": [{"image_id": 9, "file_name": "9.png", "segments_info": segments}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(described))
    return tmp_path / "truth.json", tmp_path / "truth"


def test_things_of_a_panoptic_file_are_coco_instances(panoptic: tuple[Path, Path]) -> None:
    truth = COCO()
    truth.dataset = panoptic_instances(*panoptic)
    truth.createIndex()
    assert [category["name"] for category in truth.cats.values()] == ["cat"]
    cat, crowd = (torch.from_numpy(truth.annToMask(a)) for a in truth.imgToAnns[9])
    assert cat[1:3, 1:3].all() and int(cat.sum()) == 4 and int(crowd.sum()) == 2
    assert coco_summary(coco_matches(truth, coco_results(9, [3], [0.9], cat[None]), [9]))["ap"] == pytest.approx(1)


def test_a_panoptic_mask_is_its_things(panoptic: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "COCO_val2014_9.jpg")
    (found,) = panoptic_images(tmp_path / "images", *panoptic)
    assert found.name == "9" and int(found.mask.sum()) == 4 and found.mask[1:3, 1:3].all()
    assert not found.valid[0].any() and not found.valid[3, 4:].any() and found.valid[3, :4].all()


def edited(path: Path, change: Callable[[dict], object]) -> None:
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def test_segments_without_crowd_flag_or_area(panoptic: tuple[Path, Path]) -> None:
    def change(described: dict) -> None:
        for segment in described["annotations"][0]["segments_info"]:
            for key in ("area", "bbox", "iscrowd"):
                del segment[key]

    edited(panoptic[0], change)
    found = panoptic_instances(*panoptic)["annotations"]
    assert [(o["area"], o["bbox"], o["iscrowd"]) for o in found] == [(4, [1, 1, 2, 2], 0), (2, [4, 3, 2, 1], 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0]["segments_info"].pop(), r"9\.png: segment 300 is not both"),
        (lambda d: d["annotations"][0]["segments_info"][0].update(id=4), r"9\.png: segment 4 is not both"),
        (
            lambda d: d["annotations"][0]["segments_info"][0].update(category_id=5),
            "annotation at place 0: .* no category 5",
        ),
        (lambda d: d["annotations"][0].update(image_id=5), "annotation at place 0: the file has no image 5"),
        (lambda d: d["annotations"][0].pop("segments_info"), "annotation at place 0: has no list .*segments_info"),
        (lambda d: d["annotations"][0].pop("file_name"), "annotation at place 0: 'file_name' is None"),
        (lambda d: d["categories"][0].pop("isthing"), "category 'cat' has no 'isthing'"),
        (lambda d: d["images"][0].update(height=5), r"9\.png has 6 x 4 pixels, its image by .* 6 x 5"),
        (lambda d: d["annotations"][0].update(file_name="8.png"), r"no file .*8\.png"),
        (
            lambda d: d["annotations"].append(d["annotations"][0]),
            "annotation at place 0: it is there twice; take one out",
        ),
        (
            lambda d: d["annotations"][0]["segments_info"].append(d["annotations"][0]["segments_info"][0]),
            "annotation at place 0: several segments have the id 70000",
        ),
        (lambda d: d["annotations"][0]["segments_info"][0].update(area="4"), "'area' is '4'; expected a number"),
    ],
)
def test_panoptic_entries_that_do_not_fit_are_named(panoptic: tuple[Path, Path], change: Any, message: str) -> None:
    edited(panoptic[0], change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        panoptic_instances(*panoptic)


def test_images_are_found_by_both_of_their_names(tmp_path: Path) -> None:
    for name in ("COCO_val2014_000000000042.jpg", "000000000007.png"):
        (tmp_path / name).touch()
    find = image_finder(tmp_path)
    assert (
        find("000000000042.jpg").name == find("COCO_val2014_000000000042.jpg").name == "COCO_val2014_000000000042.jpg"
    )
    assert find("000000000007.jpg").name == "000000000007.png"
    with pytest.raises(FileNotFoundError, match=r"image 1\.jpg is not in"):
        find("1.jpg")


def test_masks_are_cut_as_the_image_was() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:2, 4:] = True
    half = as_seen(mask, squash((4, 8), 4))
    assert half.tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2
    window = as_seen(mask, shortest((4, 8), 4))  # columns 2 to 5
    assert window.tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2
    larger = as_seen(mask, squash((4, 8), (8, 8)))
    assert larger[:4, 4:].all() and int(larger.sum()) == 16
    padded = as_seen(torch.ones(2, 4, 8, dtype=torch.bool), Geometry((4, 8), (2, 4), (-1, 0), (4, 4)))
    assert padded[0].tolist() == padded[1].tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_an_image_that_is_missing_is_named_with_the_file_that_asks_for_it(
    panoptic: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"truth\.json: the image 9\.jpg is not in .*images"):
        panoptic_images(tmp_path / "images", *panoptic)


def test_every_byte_of_a_mask_that_is_damaged_is_found(pair: tuple[Path, Path]) -> None:
    """Or it does not matter: nothing else is read."""
    mask = pair[1] / "a.png"
    Image.fromarray(LABELS).save(mask)
    content, refused = mask.read_bytes(), 0
    for place in range(len(content)):
        mask.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert mask_folder(*pair)[0].mask.tolist() == (LABELS != 0).tolist()
        except (OSError, ValueError) as error:
            assert "a.png" in str(error)
            refused += 1
    assert refused > len(content) - 12


@pytest.mark.parametrize("signature", [b"SNOD", b"TREE", b"HEAP"])
def test_damage_between_the_arrays_of_gtsegs_is_named(tmp_path: Path, signature: bytes) -> None:
    path = gtsegs(tmp_path / "gtsegs.mat")
    path.write_bytes(path.read_bytes().replace(signature, b"none"))
    with pytest.raises(
        ValueError, match=r"gtsegs\.mat: .*; expected gtsegs_ijcv\.mat, a MATLAB 7\.3 file: fetch it anew"
    ):
        imagenet_segmentation(path)
