from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from xai.evaluation.masks import imagenet_segmentation, mask_folder, panoptic_masks
from xai.evaluation.segmentation import segmentation_scores, segmentation_summary


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
    found = list(imagenet_segmentation(tmp_path / "gtsegs.mat"))
    assert len(found) == 2
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
    assert next(mask_folder(tmp_path / "images", tmp_path / "masks")).mask[0, 2]
    Image.new("RGB", (3, 2)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a.png has 3 channels"):
        next(mask_folder(tmp_path / "images", tmp_path / "masks"))
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image of the name a"):
        next(mask_folder(tmp_path / "images", tmp_path / "masks"))


def test_coco_panoptic_masks_segment_their_things(shared_data: Path) -> None:
    folder = shared_data / "annotations"
    found = list(panoptic_masks(folder / "panoptic_val2017.json", folder / "panoptic_val2017"))
    assert len(found) == 9
    for _, mask, valid in found:
        assert valid.any() and not (mask & ~valid).any()
    image, mask, valid = found[0]
    assert image == 285 and int(mask.sum()) == 275_827  # the bear's area in the file
    summary = segmentation_summary(segmentation_scores(mask[None].float(), mask[None], valid[None]))
    assert [float(summary[name]) for name in ("pixel_accuracy", "miou", "map")] == [1, 1, 1]
    random = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    assert segmentation_summary(segmentation_scores(random, mask[None], valid[None]))["miou"] < 0.6
