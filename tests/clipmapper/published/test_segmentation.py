import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from clipmapper.published.commands import main
from clipmapper.published.explained import Methods
from clipmapper.published.segmentation import measure
from clipmapper.published.settings import Common
from clipmapper.published.vision import load_classifier
from PIL import Image

from xai.metrics.masks import Masked
from xai.metrics.segmentation import segmentation_summary


class Oracle(Methods):
    """One method, whose patches are relevant in the upper left quarter of what the model sees."""

    def scores(self, recording: object, target: object, modality: str) -> torch.Tensor:
        patches = torch.zeros(4, 4)
        patches[:2, :2] = 1
        return torch.cat([torch.tensor([7.0]), patches.flatten()]).expand(1, 1, 17)


def test_relevance_meets_the_mask_in_the_middle_of_the_image(vit: Path) -> None:
    """The model sees columns 32 to 95 of 128: the object there is its upper left quarter, more lies outside."""
    vision = load_classifier(Common(model=str(vit), output=Path(), device="cpu"))
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[:32, :64] = True
    batch = [Masked("x", Image.new("RGB", (128, 64)), mask, torch.ones_like(mask))]
    scores = measure(vision, batch, [0], Oracle(("oracle",)))
    assert scores.correct.shape == (1 + 5, 1) and float(scores.labelled[0, 0]) == 32 * 32
    found = segmentation_summary(scores)
    assert float(found["pixel_accuracy"][0]) > 0.9 > float(found["pixel_accuracy"][1:].max())
    assert float(found["map"][0]) > 0.95


def images(folder: Path, count: int) -> np.ndarray:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return pixels


def test_the_command_on_folders_of_masks(vit: Path, tmp_path: Path) -> None:
    images(tmp_path / "images", 5)
    (tmp_path / "masks").mkdir()
    for i in range(5):
        labels = np.zeros((40, 50), dtype=np.uint8)
        labels[:, 20:30], labels[: 4 * i] = 1, 255
        Image.fromarray(labels).save(tmp_path / "masks" / f"{i}.png")
    given = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks")]
    options = ["--methods", "genatt", "--output", str(tmp_path / "out"), "--device", "cpu", "--batch_size", "2"]
    main(["segmentation", "--model", str(vit), *given, *options])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = pq.read_table(tmp_path / "out" / "samples.parquet").to_pandas()
    rows = rows[rows["method"] == "genatt"]
    figures = found["methods"]["genatt"]["figures"]
    parts = [rows[f"intersection/{p}"].sum() / rows[f"union/{p}"].sum() for p in ("background", "foreground")]
    assert figures["pixel_accuracy"]["mean"] == pytest.approx(rows["correct"].sum() / rows["labelled"].sum())
    assert figures["miou"]["mean"] == pytest.approx(sum(parts) / 2)
    assert figures["map"]["mean"] == pytest.approx(rows["average_precision"].mean())
    assert all(entry["low"] <= entry["mean"] <= entry["high"] for entry in figures.values())
    assert rows["labelled"].tolist() == sorted(rows["labelled"], reverse=True) and rows["labelled"].iloc[0] == 32 * 32
    assert Image.open(tmp_path / "out" / "samples.png").width > 300


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
    options = ["--methods", "rollout", "--output", str(tmp_path / "out"), "--device", "cpu", "--pictures", "1"]
    main(["segmentation", "--model", str(vit), "--data", str(tmp_path / "gtsegs_ijcv.mat"), *options])
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["samples"] == 2 and result["methods"]["rollout"]["published"]["miou"] == 0.5542


@pytest.mark.slow
def test_the_command_on_coco_panoptic(vit: Path, shared_data: Path, tmp_path: Path) -> None:
    given = ["--images", str(shared_data / "images" / "val2014")]
    given += ["--panoptic", str(shared_data / "annotations" / "panoptic_val2017.json")]
    main(
        [
            "segmentation",
            "--model",
            str(vit),
            *given,
            "--methods",
            "genatt",
            "--output",
            str(tmp_path),
            "--device",
            "cpu",
        ]
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 9


@pytest.mark.parametrize("given", [[], ["--images", "a"], ["--data", "a", "--images", "b"], ["--masks", "a"]])
def test_sources_that_do_not_fit_are_refused(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"give --data gtsegs_ijcv\.mat, or --images"):
        main(["segmentation", "--model", "x", "--output", str(tmp_path), *given])
