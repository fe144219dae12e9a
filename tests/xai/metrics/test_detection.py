import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from xai.metrics.detection import coco_matches, coco_results, coco_summary, confident, object_masks, otsu


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture(scope="module")
def instances(shared_data: Path) -> COCO:
    return load(shared_data / "annotations" / "instances_val2014.json")


def test_queries_sure_of_an_object() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.1, 0.2, 0.0], [0.0, 9.0, 0.0]])
    found = confident(logits)
    assert found.queries.tolist() == [0, 3] and found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([logits[0].softmax(0)[0].item(), logits[3].softmax(0)[1].item()])


def test_otsu_splits_two_heaps() -> None:
    rows = torch.tensor([[0.1, 0.9, 0.2, 1.0, 0.15], [5.0, 5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert otsu(rows).tolist() == [[False, True, False, True, False], [False] * 5, [False] * 4 + [True]]
    assert torch.equal(otsu(1e-9 * rows - 4e-9), otsu(rows))


def test_masks_go_back_to_the_original_image_without_the_padding() -> None:
    rows = torch.zeros(1, 2, 4)
    rows[0, 0, 0] = 1
    # Input of 16 x 32, of which 16 x 24 are the image; bilinear reaches half a cell beyond the cell of 8 x 8.
    found = object_masks(rows, seen=(16, 32), image=(32, 48), unpadded=(16, 24))
    expected = torch.zeros(1, 32, 48, dtype=torch.bool)
    expected[0, :24, :24] = True
    assert torch.equal(found, expected)


def test_the_threshold_does_not_look_at_padding() -> None:
    """Of the values 5, 6 and 9 the last is apart; with zeros of padding beside them all three would be."""
    rows = torch.tensor([[[5.0, 6.0, 9.0, 0.0, 0.0, 0.0]]])
    found = object_masks(rows, seen=(4, 24), image=(4, 12), unpadded=(4, 12), cells=(1, 3))
    assert found[0, 0].tolist() == [False] * 6 + [True] * 6  # half a cell more than the cell
    assert object_masks(rows, seen=(4, 24), image=(4, 12), unpadded=(4, 12)).all()


def test_perfect_masks_have_ap_1(instances: COCO) -> None:
    results = []
    for image in instances.getImgIds():
        truth = [a for a in instances.loadAnns(instances.getAnnIds(image)) if not a["iscrowd"]]
        if truth:
            masks = torch.stack([torch.from_numpy(instances.annToMask(a)) for a in truth])
            results += coco_results(image, [a["category_id"] for a in truth], [0.9] * len(truth), masks)
    figures = coco_summary(coco_matches(instances, json.loads(json.dumps(results)), instances.getImgIds()))
    assert figures == pytest.approx(dict.fromkeys(figures, 1.0))
    assert set(figures) == {"ap", "ap_medium", "ap_large", "ar", "ar_medium", "ar_large"}


def test_images_that_were_not_explained_do_not_count(instances: COCO) -> None:
    image = next(i for i in instances.getImgIds() if any(a["area"] > 96**2 for a in instances.imgToAnns[i]))
    truth = [a for a in instances.imgToAnns[image] if not a["iscrowd"]]
    masks = torch.stack([torch.from_numpy(instances.annToMask(a)) for a in truth])
    results = coco_results(image, [a["category_id"] for a in truth], [1.0] * len(truth), masks)
    assert coco_summary(coco_matches(instances, results, [image]))["ap"] == pytest.approx(1)
    assert coco_summary(coco_matches(instances, results, instances.getImgIds()))["ap"] < 0.5
    assert coco_summary(coco_matches(instances, [], [image]))["ap"] == 0


@pytest.fixture
def square(tmp_path: Path) -> COCO:
    """One object: 120 x 120 pixels in an image of 200 x 200."""
    corners = [[10, 10, 130, 10, 130, 130, 10, 130]]
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 14400, "bbox": [10, 10, 120, 120]}
    truth = {
        "images": [{"id": 7, "width": 200, "height": 200}],
        "categories": [{"id": 3, "name": "square"}],
        "annotations": [annotation | {"segmentation": corners}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return load(tmp_path / "truth.json")


def test_iou_counts_from_two_tenths_on(square: COCO) -> None:
    """A mask of a third of the object has IoU 1/3: right at 0.2, 0.25 and 0.3 of the 16 thresholds, and a large object."""
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[0, 10:50, 10:130] = True
    results = coco_results(7, [3], [0.8], mask)
    figures = coco_summary(coco_matches(square, results, [7]))
    assert [figures[name] for name in ("ap", "ar", "ap_large")] == pytest.approx([3 / 16] * 3)
    assert torch.tensor([figures["ap_medium"], figures["ar_medium"]]).isnan().all()
    assert coco_summary(coco_matches(square, results, [7], from_iou=0.5))["ap"] == 0


def test_an_image_without_detections_has_no_results() -> None:
    assert coco_results(7, [], [], torch.zeros(0, 20, 30, dtype=torch.bool)) == []
