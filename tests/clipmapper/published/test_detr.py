import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
from clipmapper.published.commands import main
from clipmapper.published.detected import Detected, extent
from clipmapper.published.detr import categories, coco_truth, image_paths, intervals, load_detector
from clipmapper.published.explained import Methods, methods_of
from clipmapper.published.settings import Detection
from PIL import Image

from clipmapper.data.files import MissingData


def coco(folder: Path, sizes: list[tuple[int, int]], kinds: tuple[str, ...] = ("cat", "dog"), side: int = 72) -> Path:
    """Images with a square of `side` in the upper left corner, of both kinds."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for i, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for k, _ in enumerate(kinds):
            box = {"bbox": [0, 0, side, side], "area": side**2, "segmentation": [[0, 0, side, 0, side, side, 0, side]]}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 10 + k, "iscrowd": 0, **box})
    named = [{"id": 10 + k, "name": name} for k, name in enumerate(kinds)]
    truth = {"images": images, "annotations": annotations, "categories": named}
    (folder / "instances.json").write_text(json.dumps(truth))
    return folder / "instances.json"


def settings(detr: Path, annotations: Path, **options: Any) -> Detection:
    options = {"threshold": 0.0, "device": "cpu"} | options
    folder = annotations.parent
    return Detection(
        model=str(detr), output=folder / "out", images=folder / "images", annotations=annotations, **options
    )


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmapper.published.detr.RESAMPLES", 20)


class Oracle(Methods):
    """One method: the 4 x 4 cells in the corner."""

    def scores(self, recording: Any, target: Any, modality: str) -> torch.Tensor:
        maps = torch.zeros(1, len(recording.mask), *recording.grids["image"])
        maps[..., :4, :4] = 1
        return maps.flatten(2)


def test_the_right_cells_have_ap_1_for_the_class_that_is_found(detr: Path, tmp_path: Path) -> None:
    """4 of 8 cells: 32 of 64 pixels and half a cell more are 36, in the image twice as large 72."""
    given = settings(detr, coco(tmp_path, [(128, 128)]))
    truth, methods = coco_truth(given), Oracle(("oracle",))
    detector = load_detector(given, truth)
    batch = Detected(detector, methods, [0], [Image.open(tmp_path / "images" / "0.png").convert("RGB")], 0.0)
    assert batch.recording.grids == {"image": (8, 8)} and batch.seen[0].cells == (8, 8)
    results = batch.results()
    assert set(results) == {"oracle", *(f"random {seed}" for seed in range(5))}
    (found,) = results["oracle"]
    assert found["category_id"] == detector.categories[int(batch.seen[0].found.labels[0])] in (10, 11)
    assert found["score"] == pytest.approx(float(batch.seen[0].found.scores[0]))
    figures = intervals(truth, results, [0], methods, 0.2)
    assert figures["ap"].mean[0] == pytest.approx(0.5), "of the other class nothing is found"
    assert figures["ap"].low[0] == figures["ap"].high[0] == pytest.approx(0.5)
    assert figures["ap_medium"].mean[0] == pytest.approx(0.5) and np.isnan(figures["ap_large"].mean[0])
    assert figures["ap"].mean[1] < 0.4


def test_padding_is_neither_seen_nor_cut_into_masks(detr: Path, tmp_path: Path) -> None:
    given = settings(detr, coco(tmp_path, [(128, 64), (64, 128)]))
    detector = load_detector(given, coco_truth(given))
    images = [Image.open(tmp_path / "images" / f"{i}.png").convert("RGB") for i in range(2)]
    batch = Detected(detector, methods_of("rollout"), [0, 1], images, 0.0)
    assert [seen.cells for seen in batch.seen] == [(8, 4), (4, 8)]
    assert [seen.unpadded for seen in batch.seen] == [(64, 32), (32, 64)]
    found = batch.results()["rollout"]
    assert [entry["segmentation"]["size"] for entry in found] == [[128, 64], [64, 128]]


def test_the_extent_of_what_is_real() -> None:
    mask = torch.zeros(4, 6, dtype=torch.long)
    mask[:3, :2] = 1
    assert extent(mask) == (3, 2)


def test_each_detection_is_explained_for_its_own_class(detr: Path, tmp_path: Path) -> None:
    given = settings(detr, coco(tmp_path, [(64, 64), (64, 64)]))
    detector = load_detector(given, coco_truth(given))
    images = [Image.open(tmp_path / "images" / f"{i}.png").convert("RGB") for i in range(2)]
    batch = Detected(detector, methods_of("genatt"), [0, 1], images, 0.0)
    (together,) = batch.maps()
    assert batch.targets(1)[0].tolist() == [0, 0]
    for i, image in enumerate(images):
        (alone,) = Detected(detector, methods_of("genatt"), [i], [image], 0.0).maps()
        torch.testing.assert_close(together[:, i], alone[:, 0], rtol=1e-3, atol=1e-5)


def test_the_command(detr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, out = coco(tmp_path, [(128, 128), (128, 96), (96, 128)]), tmp_path / "out"
    given = ["--images", str(tmp_path / "images"), "--annotations", str(annotations), "--output", str(out)]
    options = ["--threshold", "0.01", "--methods", "genatt,transatt", "--device", "cpu", "--pictures", "1"]
    main(["detr", "--model", str(detr), *given, *options])
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["methods"]) == ["genatt", "transatt", "random"] and found["protocol"]["min_iou"] == 0.2
    assert found["methods"]["genatt"]["error"] is found["methods"]["transatt"]["error"] is None
    assert found["samples"] == found["detections"] == found["images_with_detections"] == 3
    rows = pq.read_table(out / "samples.parquet").to_pylist()
    assert [row["image_id"] for row in rows if row["method"] == "genatt"] == [0, 1, 2]
    assert "13.10" in capsys.readouterr().out and Image.open(out / "samples.png").width > 300


def test_nothing_detected_is_nothing_found(detr: Path, tmp_path: Path) -> None:
    annotations, out = coco(tmp_path, [(64, 64)]), tmp_path / "out"
    given = ["--images", str(tmp_path / "images"), "--annotations", str(annotations), "--output", str(out)]
    main(["detr", "--model", str(detr), *given, "--threshold", "1", "--methods", "rollout", "--device", "cpu"])
    found = json.loads((out / "metrics.json").read_text())
    assert found["detections"] == 0 and found["methods"]["rollout"]["figures"]["ap"]["mean"] == 0
    assert not (out / "samples.png").exists()


def test_classes_go_by_name(detr: Path, tmp_path: Path) -> None:
    truth = coco_truth(settings(detr, coco(tmp_path, [(64, 64)], kinds=("dog", "cat"))))
    assert categories({0: "cat", 1: "N/A", 2: "dog"}, truth) == {2: 10, 0: 11}
    with pytest.raises(ValueError, match=r"unknown class 'dog'.*its id2label must have COCO's names"):
        categories({0: "LABEL_0"}, truth)


def test_what_is_missing_is_named(detr: Path, tmp_path: Path) -> None:
    annotations = coco(tmp_path, [(64, 64)])
    with pytest.raises(MissingData, match="--annotations: no file"):
        coco_truth(settings(detr, tmp_path / "none.json"))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "1.png")
    given = settings(detr, annotations)
    with pytest.raises(FileNotFoundError, match=r"the image 0\.png is not in"):
        image_paths(given, coco_truth(given))
    with pytest.raises(ValueError, match="give either --annotations or --panoptic"):
        settings(detr, annotations, panoptic=annotations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["annotations", "panoptic"])
def test_the_command_on_coco(shared_data: Path, detr: Path, tmp_path: Path, kind: str) -> None:
    name = {"annotations": "instances_val2014.json", "panoptic": "panoptic_val2017.json"}[kind]
    path = shared_data / "annotations" / name
    model = tf.DetrForObjectDetection.from_pretrained(detr)
    names = {c["id"]: c["name"] for c in json.loads(path.read_text())["categories"]}
    config = model.config
    config.id2label, config.label2id = {i: names.get(i, f"none {i}") for i in range(91)}, {}
    tf.DetrForObjectDetection(config).save_pretrained(tmp_path / "detr")
    tf.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 100}).save_pretrained(tmp_path / "detr")
    given = [f"--{kind}", str(path), "--images", str(shared_data / "images" / "val2014"), "--output", str(tmp_path)]
    options = ["--threshold", "0", "--methods", "genatt", "--samples", "8", "--device", "cpu", "--pictures", "1"]
    main(["detr", "--model", str(tmp_path / "detr"), *given, *options])
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 8
