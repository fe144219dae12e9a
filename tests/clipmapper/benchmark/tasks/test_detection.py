"""DETR's masks: AP by hand, padding, each object's own class, the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
from PIL import Image

from clipmapper.benchmark.measure import explain_batch
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Explained
from clipmapper.benchmark.tasks.detected import extent
from clipmapper.benchmark.tasks.detection import DetectionSettings, DetectionTask, categories, coco_truth
from clipmapper.data.files import MissingData
from clipmapper.evaluation.papers import main

SHORT = [
    "--device",
    "cpu",
    "--benchmark.resamples",
    "100",
    "--benchmark.cost_samples",
    "0",
    "--benchmark.random_seeds",
    "2",
]


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


def settings(detr: Path, annotations: Path, **options: Any) -> DetectionSettings:
    options = {"threshold": 0.0, "device": "cpu"} | options
    folder = annotations.parent
    return DetectionSettings(
        model=str(detr), output=folder / "out", images=folder / "images", annotations=annotations, **options
    )


CONFIG = BenchmarkConfig(methods="genatt", random_seeds=5, resamples=100, batch_size=2)


def test_the_right_cells_have_ap_1_for_the_class_that_is_found(
    detr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 of 8 cells: 32 of 64 pixels and half a cell more are 36, in the image twice as large 72."""
    task = DetectionTask(settings(detr, coco(tmp_path, [(128, 128)])), CONFIG)
    batch = task.batch(range(1))
    explained = explain_batch(task, batch, ["genatt"])
    seen = task.detected(batch, explained.recorded.recording).seen[0]
    assert explained.recorded.recording.grids == {"image": (8, 8)} and seen.cells == (8, 8)

    def corner(self: Explained, modality: str, target: Any, recording: Any) -> torch.Tensor:
        maps = torch.zeros(1, len(recording.mask), *recording.grids["image"])
        maps[..., :4, :4] = 1
        return maps.flatten(2)

    monkeypatch.setattr(Explained, "scores", corner)
    details = task.details(batch, explained, CONFIG)
    (found,) = [entry for entry in details.to_pylist() if entry["method"] == "genatt"]
    assert found["category_id"] == task.detector.categories[int(seen.detections.labels[0])] in (10, 11)
    assert found["score"] == pytest.approx(float(seen.detections.scores[0]))
    ap = task.corpus({}, details, ("genatt", "random"), CONFIG)
    assert ap["ap"][0, 0] == pytest.approx(0.5), "of the other class nothing is found"
    assert np.allclose(ap["ap"][0], 0.5) and ap["ap"].shape == (2, 101) and ap["ap"][1, 0] < 0.4
    assert ap["ap_medium"][0, 0] == pytest.approx(0.5) and np.isnan(ap["ap_large"][0, 0])


def test_padding_is_neither_seen_nor_cut_into_masks(detr: Path, tmp_path: Path) -> None:
    task = DetectionTask(settings(detr, coco(tmp_path, [(128, 64), (64, 128)])), CONFIG)
    batch = task.batch(range(2))
    explained = explain_batch(task, batch, ["rollout"])
    seen = task.detected(batch, explained.recorded.recording).seen
    assert [one.cells for one in seen] == [(8, 4), (4, 8)] and [one.unpadded for one in seen] == [(64, 32), (32, 64)]
    entries = [e for e in task.details(batch, explained, CONFIG).to_pylist() if e["method"] == "rollout"]
    assert [entry["segmentation"]["size"] for entry in entries] == [[128, 64], [64, 128]]


def test_the_extent_of_what_is_no_padding() -> None:
    mask = torch.zeros(4, 6, dtype=torch.long)
    mask[:3, :2] = 1
    assert extent(mask) == (3, 2)


def test_each_detection_is_explained_for_its_own_class(detr: Path, tmp_path: Path) -> None:
    task = DetectionTask(settings(detr, coco(tmp_path, [(64, 64), (64, 64)])), CONFIG)

    def masks(rows: range) -> list[Any]:
        batch = task.batch(rows)
        entries = task.details(batch, explain_batch(task, batch, ["genatt"]), CONFIG).to_pylist()
        return sorted((str(e["image_id"]), e["method"], round(e["score"], 4), str(e["segmentation"])) for e in entries)

    assert masks(range(2)) == sorted(masks(range(1)) + masks(range(1, 2)))


def test_the_command(detr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, out = coco(tmp_path, [(128, 128), (128, 96), (96, 128)]), tmp_path / "out"
    given = ["--images", str(tmp_path / "images"), "--annotations", str(annotations), "--output", str(out), *SHORT]
    options = [
        "--threshold",
        "0.01",
        "--methods",
        "genatt,transatt",
        "--pictures",
        "1",
        "--benchmark.cost_samples",
        "1",
    ]

    def run() -> dict[str, Any]:
        main(["detr", "--model", str(detr), *given, *options])
        return json.loads((out / "metrics.json").read_text())

    found = run()
    assert set(found["methods"]) == {"genatt", "transatt", "random"} and found["settings"]["min_iou"] == 0.2
    assert found["methods"]["genatt"]["error"] is found["methods"]["transatt"]["error"] is None
    assert found["methods"]["genatt"]["sanity"]["model"] and found["samples"] == 3
    assert pq.read_table(out / "samples.parquet")["detections"].to_pylist() == [1, 1, 1]
    assert "AP" in capsys.readouterr().out
    (out / "explainers" / "details-00001.parquet").write_bytes(b"cut")
    assert run()["methods"] == found["methods"]


def test_nothing_detected_is_nothing_found(detr: Path, tmp_path: Path) -> None:
    annotations, out = coco(tmp_path, [(64, 64)]), tmp_path / "out"
    given = ["--images", str(tmp_path / "images"), "--annotations", str(annotations), "--output", str(out), *SHORT]
    main(["detr", "--model", str(detr), *given, "--threshold", "1", "--methods", "rollout"])
    found = json.loads((out / "metrics.json").read_text())
    assert found["methods"]["rollout"]["metrics"]["ap"]["mean"] == 0


def test_classes_go_by_name(detr: Path, tmp_path: Path) -> None:
    truth = coco_truth(settings(detr, coco(tmp_path, [(64, 64)], kinds=("dog", "cat"))))
    assert categories({0: "cat", 1: "N/A", 2: "dog"}, truth) == {2: 10, 0: 11}
    for names in ({0: "LABEL_0"}, {0: "dog", 1: "cat", 2: "dog"}):
        with pytest.raises(ValueError, match=r"unknown class 'dog'.*its id2label must have COCO's names"):
            categories(names, truth)


def test_what_is_missing_is_named(detr: Path, tmp_path: Path) -> None:
    annotations = coco(tmp_path, [(64, 64)])
    with pytest.raises(MissingData, match="--annotations: no file"):
        DetectionTask(settings(detr, tmp_path / "none.json"), CONFIG)
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "1.png")
    with pytest.raises(FileNotFoundError, match=r"the image 0\.png is not in"):
        DetectionTask(settings(detr, annotations), CONFIG)
    with pytest.raises(ValueError, match="give either --annotations or --panoptic"):
        settings(detr, annotations, panoptic=annotations)


def edited(annotations: Path, change: Callable[[dict], object]) -> Path:
    truth = json.loads(annotations.read_text())
    change(truth)
    annotations.write_text(json.dumps(truth))
    return annotations


def test_annotations_are_checked_before_a_model_is_loaded(tmp_path: Path) -> None:
    none = tmp_path / "no model"
    for name, change, message in (
        (
            "shape",
            lambda t: t["annotations"][1].update(segmentation=[]),
            r"instances\.json: annotation 2: .*no segmentation",
        ),
        (
            "size",
            lambda t: t["images"][0].update(width=32),
            r"json has 32 x 64 pixels, its image .*0\.png 64 x 64",
        ),
    ):
        (tmp_path / name).mkdir()
        annotations = edited(coco(tmp_path / name, [(64, 64)], side=8), change)
        with pytest.raises(ValueError, match=message):
            DetectionTask(settings(none, annotations), CONFIG)


def test_photos_that_may_have_been_annotated_turned_are_refused(tmp_path: Path) -> None:
    annotations = coco(tmp_path, [(64, 64)], side=8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images" / "0.png"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(
        ValueError, match=r"image 0 in .*instances\.json may be turned or not; .*0\.png is stored turned"
    ):
        DetectionTask(settings(tmp_path / "no model", annotations), CONFIG)


def test_annotations_without_optional_keys_give_the_same_figures(detr: Path, tmp_path: Path) -> None:
    def figures(name: str, change: Callable[[dict], object]) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        annotations, out = edited(coco(tmp_path / name, [(64, 64)], side=48), change), tmp_path / name / "out"
        given = ["--images", str(tmp_path / name / "images"), "--annotations", str(annotations), "--output", str(out)]
        main(["detr", "--model", str(detr), *given, *SHORT, "--threshold", "0.01", "--methods", "rollout"])
        return json.loads((out / "metrics.json").read_text())["methods"]["random"]["metrics"]

    def change(truth: dict) -> None:
        for annotation in truth["annotations"]:
            annotation["id"] = 0  # which pycocotools takes for no object
            for key in ("iscrowd", "area", "bbox"):
                del annotation[key]

    whole = figures("whole", lambda truth: None)
    assert figures("part", change) == whole and whole["ap"]["mean"] > 0


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
    options = ["--threshold", "0", "--methods", "genatt", "--samples", "4", "--pictures", "1", *SHORT]
    main(["detr", "--model", str(tmp_path / "detr"), *given, *options])
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 4
