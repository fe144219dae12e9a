import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from xai.figures.geometry import Geometry, shortest, squash
from xai.metrics.detection import coco_figures, coco_results
from xai.metrics.masks import (
    as_seen,
    image_finder,
    imagenet_segmentation,
    mask_folder,
    panoptic_images,
    panoptic_instances,
)
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
    assert coco_figures(truth, coco_results(9, [3], [0.9], cat[None]), [9])["ap"] == pytest.approx(1)


def test_a_panoptic_mask_is_its_things(panoptic: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "COCO_val2014_9.jpg")
    (found,) = panoptic_images(tmp_path / "images", *panoptic)
    assert found.name == "9" and int(found.mask.sum()) == 4 and found.mask[1:3, 1:3].all()
    assert not found.valid[0].any() and not found.valid[3, 4:].any() and found.valid[3, :4].all()


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
