"""Against pycocotools, which is given images twice under other ids."""

from typing import Any

import pytest
import torch
from pycocotools.coco import COCO

from xai.metrics.detection import coco_matches, coco_results, coco_summary
from xai.metrics.detection_resampling import resampled_figures

SIDE = 120
KEYS = ("ap", "ap_medium", "ap_large", "ar", "ar_medium", "ar_large")


def square(image: int, category: int, left: int, side: int) -> dict[str, Any]:
    corners = [left, 4, left + side, 4, left + side, 4 + side, left, 4 + side]
    box = {"area": side * side, "bbox": [left, 4, side, side], "segmentation": [[float(c) for c in corners]]}
    return {"image_id": image, "category_id": category, "iscrowd": 0, **box}


OBJECTS = [square(1, 1, 0, 100), square(1, 1, 60, 40), square(2, 2, 10, 50), square(3, 1, 30, 60), square(3, 2, 5, 98)]


def seen(image: int, category: int, left: int, side: int, score: float) -> dict[str, Any]:
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 4 : 4 + side, left : left + side] = True
    return coco_results(image, [category], [score], mask)[0]


FOUND = [
    seen(1, 1, 10, 90, 0.9),
    seen(1, 1, 62, 50, 0.8),
    seen(2, 2, 30, 40, 0.7),
    seen(2, 1, 0, 60, 0.95),
    seen(3, 1, 32, 64, 0.6),
    seen(3, 2, 60, 60, 0.85),
]


def truth_of(objects: list[dict[str, Any]], images: list[int]) -> COCO:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in images],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(objects)],
    }
    truth.createIndex()
    return truth


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 0, 1], [0, 3, 0], [1, 2, 3]])
def test_counts_are_copies(counts: list[int]) -> None:
    evaluation = coco_matches(truth_of(OBJECTS, [1, 2, 3]), FOUND, [1, 2, 3])
    found = resampled_figures(evaluation, torch.tensor([counts, [1, 1, 1]]).double())
    copies = [(10 * i + c, i) for i, count in zip((1, 2, 3), counts, strict=True) for c in range(count)]
    objects, results = (
        [{**entry, "image_id": new} for new, old in copies for entry in entries if entry["image_id"] == old]
        for entries in (OBJECTS, FOUND)
    )
    ids = [new for new, _ in copies]
    expected = coco_summary(coco_matches(truth_of(objects, ids), results, ids))
    assert [float(found[key][0]) for key in KEYS] == pytest.approx([expected[key] for key in KEYS], nan_ok=True)


def test_figures_by_hand() -> None:
    """Image 2 alone: its object of class 2 is found with IoU 30 * 40 / 2900 = 0.41, so at 5 of 16 thresholds."""
    evaluation = coco_matches(truth_of(OBJECTS, [1, 2, 3]), FOUND, [1, 2, 3])
    found = resampled_figures(evaluation, torch.tensor([[0.0, 1.0, 0.0]]))
    assert [float(found[name]) for name in ("ap", "ar")] == pytest.approx([5 / 16] * 2)
    assert found["ap_large"].isnan().all()


def test_without_detections_nothing_is_found() -> None:
    evaluation = coco_matches(truth_of(OBJECTS, [1, 2, 3]), [], [1, 2, 3])
    found = resampled_figures(evaluation, torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert float(found["ap"][0]) == float(found["ar"][0]) == 0 and found["ap"][1].isnan()
