"""Relevance as a segmentation: where the mask lies, the command on each kind of data."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Explained
from clipmapper.benchmark.tasks.segmentation import SegmentationSettings, SegmentationTask, masked_images
from clipmapper.evaluation.papers import main

SHORT = ["--device", "cpu", "--benchmark.resamples", "100", "--benchmark.cost_samples", "0"]


def images(folder: Path, count: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return pixels


def test_relevance_meets_the_mask_in_the_middle_of_the_image(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model sees columns 32 to 95 of 128: the object there is its upper left quarter, more lies outside."""
    images(tmp_path / "images", 1, (64, 128))
    (tmp_path / "masks").mkdir()
    mask = np.zeros((64, 128), dtype=np.uint8)
    mask[:32, :64] = 1
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")

    def planted(self: Explained, *unused: Any) -> torch.Tensor:
        patches = torch.zeros(4, 4)
        patches[:2, :2] = 1
        return torch.cat([torch.tensor([7.0]), patches.flatten()]).expand(1, 1, 17)

    monkeypatch.setattr(Explained, "scores", planted)
    settings = SegmentationSettings(
        model=str(vit), output=tmp_path, device="cpu", images=tmp_path / "images", masks=tmp_path / "masks"
    )
    config = BenchmarkConfig(methods="genatt")
    task = SegmentationTask(settings, config)
    result = measure(task, range(1), ["genatt"], config)
    assert result.values["labelled"][0].tolist() == [32 * 32]
    found = task.corpus(result.values, None, ("genatt", "random"), BenchmarkConfig(resamples=100))
    assert found["pixel_accuracy"][0, 0] > 0.9 > found["pixel_accuracy"][1, 0] and found["map"][0, 0] > 0.95
    assert found["miou"].shape == (2, 101)


def test_the_command_on_folders_of_masks(vit: Path, tmp_path: Path) -> None:
    images(tmp_path / "images", 5)
    (tmp_path / "masks").mkdir()
    for i in range(5):
        labels = np.zeros((40, 50), dtype=np.uint8)
        labels[:, 20:30], labels[: 4 * i] = 1, 255
        Image.fromarray(labels).save(tmp_path / "masks" / f"{i}.png")
    out = tmp_path / "out"
    given = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "--output", str(out), *SHORT]

    def run() -> dict[str, Any]:
        main(["segmentation", "--model", str(vit), *given, "--methods", "genatt", "--batch_size", "2"])
        return json.loads((out / "metrics.json").read_text())["methods"]

    methods = run()
    frame = pq.read_table(out / "values.parquet").to_pandas()
    sums = frame[frame["method"] == "genatt"].groupby("metric", observed=True)["value"].sum()
    values = methods["genatt"]["metrics"]
    parts = [sums[f"intersection_{p}"] / sums[f"union_{p}"] for p in ("background", "foreground")]
    assert values["pixel_accuracy"]["mean"] == pytest.approx(sums["correct"] / sums["labelled"], rel=1e-5)
    assert values["miou"]["mean"] == pytest.approx(sum(parts) / 2, rel=1e-5)
    assert values["map"]["mean"] == pytest.approx(sums["average_precision"] / 5, rel=1e-5)
    for name in ("pixel_accuracy", "miou", "map"):
        assert values[name]["low"] <= values[name]["mean"] <= values[name]["high"]
    labelled = frame[(frame["method"] == "genatt") & (frame["metric"] == "labelled")]["value"].tolist()
    assert labelled == sorted(labelled, reverse=True) and labelled[0] == 32 * 32
    (out / "explainers" / "samples-00001.parquet").unlink()
    assert run() == methods, "a batch that is missing is measured again"


def test_the_command_on_imagenet_segmentation(vit: Path, tmp_path: Path) -> None:
    pixels = images(tmp_path / "images", 2)
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        found, cells = (file.create_dataset(f"value/{name}", (2, 1), h5py.ref_dtype) for name in ("img", "gt"))
        for i in range(2):
            found[i, 0] = file.create_dataset(f"refs/image{i}", data=pixels[i].transpose(2, 1, 0)).ref
            mask = np.zeros((50, 40), dtype=np.uint8)
            mask[10 : 20 + 5 * i, 5:20] = 1
            cell = file.create_dataset(f"refs/cell{i}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = file.create_dataset(f"refs/mask{i}", data=mask).ref
            cells[i, 0] = cell.ref
    options = ["--methods", "rollout", "--output", str(tmp_path / "out"), *SHORT]
    main(["segmentation", "--model", str(vit), "--data", str(tmp_path / "gtsegs_ijcv.mat"), *options])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["samples"] == 2


@pytest.mark.slow
def test_the_command_on_coco_panoptic(vit: Path, shared_data: Path, tmp_path: Path) -> None:
    given = ["--images", str(shared_data / "images" / "val2014")]
    given += ["--panoptic", str(shared_data / "annotations" / "panoptic_val2017.json")]
    main(["segmentation", "--model", str(vit), *given, "--methods", "genatt", "--output", str(tmp_path), *SHORT])
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 9


@pytest.mark.parametrize("given", [[], ["--images", "a"], ["--data", "a", "--images", "b"], ["--masks", "a"]])
def test_sources_that_do_not_fit_are_refused(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"give --data gtsegs_ijcv\.mat, or --images"):
        main(["segmentation", "--model", "x", "--output", str(tmp_path), *given])


def folders(folder: Path, count: int = 3) -> list[str]:
    images(folder / "images", count)
    (folder / "masks").mkdir()
    for i in range(count):
        Image.fromarray(np.eye(40, 50, i, dtype=np.uint8)).save(folder / "masks" / f"{i}.png")
    return [
        "--images",
        str(folder / "images"),
        "--masks",
        str(folder / "masks"),
        "--output",
        str(folder / "out"),
        *SHORT,
    ]


def test_damaged_files_are_left_out_and_counted(vit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = folders(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    (tmp_path / "masks" / "2.png").write_bytes(b"no mask")
    main(["segmentation", "--model", str(vit), *given, "--methods", "rollout"])
    said = capfd.readouterr().out
    for line in ("images/1.png: not a readable image", "masks/2.png: not a readable image", "left out: 2 of 3 images"):
        assert line in said
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["samples"] == 1


def test_masks_are_checked_before_a_model_is_loaded(tmp_path: Path) -> None:
    given = folders(tmp_path)
    Image.new("L", (40, 50), 1).save(tmp_path / "masks" / "1.png")
    with pytest.raises(SystemExit, match=r"1\.png has 40 x 50 pixels, its image .* 50 x 40"):
        main(["segmentation", "--model", str(tmp_path / "no model"), *given, "--methods", "rollout"])


def test_masks_of_0_and_255(vit: Path, tmp_path: Path) -> None:
    given = folders(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    with pytest.raises(SystemExit, match="give --ignore null if 255 is the object"):
        main(["segmentation", "--model", str(vit), *given, "--methods", "rollout"])
    main(["segmentation", "--model", str(vit), *given, "--methods", "rollout", "--ignore", "null"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["samples"] == 3


def test_deep_images_are_scaled_as_everywhere(tmp_path: Path) -> None:
    folders(tmp_path, 1)
    Image.fromarray(np.full((40, 50), 257 * 40, dtype=np.uint16)).save(tmp_path / "images" / "0.png")
    paths = {"images": tmp_path / "images", "masks": tmp_path / "masks"}
    settings = SegmentationSettings(model="none", output=tmp_path, **paths)
    assert masked_images(settings)[0].image.getpixel((0, 0)) == (40, 40, 40)
