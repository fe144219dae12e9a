import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from clipmapper.published.commands import main
from clipmapper.published.imagenet import PROTOCOL, Batch, accuracies
from clipmapper.published.settings import ImageNet
from clipmapper.published.vision import Vision
from PIL import Image
from torch import Tensor, nn

from xai import Adapter
from xai.figures.geometry import squash
from xai.metrics.protocols import area


class Bright(nn.Module):
    """Class 1 if the upper left pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 0, 0]
        return torch.stack([0.5 - bright, bright], dim=1)


VISION = Vision(Bright(), Adapter((), None), None, "x", lambda size: squash(size, 4), torch.zeros(3, 1, 1), {}, 2)  # type: ignore[arg-type]


def settings(unit: Any) -> ImageNet:
    return ImageNet(model="", output=Path(), data=Path(), unit=unit)


def test_areas_by_hand() -> None:
    """Of 4 patches 3, 3, 2, 2, 2, 1, 1, 0, 0 are left; the first decides.

    If it is the most relevant, it goes at once (positive), or stays for the first seven steps (negative): (6 + 1/2) / 8.
    """
    batch = Batch(torch.tensor([0]), torch.ones(1, 3, 4, 4), torch.tensor([1]))
    maps = torch.tensor([[[[9.0, 1.0], [2.0, 3.0]]], [[[0.0, 1.0], [2.0, 3.0]]]])
    found = area(accuracies(VISION, batch, maps, settings("patches")), PROTOCOL.shares)[..., 0]
    assert found.tolist() == [pytest.approx([0, 6.5 / 8]), pytest.approx([6.5 / 8, 0])]
    wrong = accuracies(VISION, Batch(batch.ids, batch.pixels, torch.tensor([0])), maps, settings("patches"))
    assert wrong[0, 0].tolist() == [[1.0] * 9], "without its bright pixel the image is of class 0"


def test_pixels_go_by_the_relevance_between_the_patches() -> None:
    """16 pixels, of which 14, 12, 11, 9, 8, 6, 4, 3, 1 are left; the corner is the one that lasts longest."""
    batch = Batch(torch.tensor([0, 1]), torch.ones(2, 3, 4, 4), torch.tensor([1, 1]))
    maps = torch.tensor([[[9.0, 1.0], [2.0, 3.0]]]).expand(1, 2, 2, 2)
    found = accuracies(VISION, batch, maps, settings("pixels"))
    assert found.shape == (1, 2, 2, 9)
    assert found[0, 0].eq(0).all() and found[0, 1].eq(1).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        (root / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def run(vit: Path, folder: Path, output: Path, *options: str) -> dict[str, Any]:
    main(["imagenet", "--model", str(vit), "--data", str(folder), "--output", str(output), "--device", "cpu", *options])
    return json.loads((output / "metrics.json").read_text())


def test_the_command(vit: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "genatt,rollout"]
    found = run(vit, folder, tmp_path / "one", *options, "--batch_size", "4", "--pictures", "2")
    printed = capsys.readouterr().out
    assert "17.32" in printed and "samples 6" in printed and list(found["methods"]) == ["genatt", "rollout", "random"]
    assert found["protocol"]["shares"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert (
        found["protocol"]["removed"] == "black" and found["methods"]["genatt"]["published"]["positive/target"] == 0.1672
    )
    figures = {name: entry["figures"] for name, entry in found["methods"].items()}
    for name in ("rollout", "random"):
        assert figures[name]["positive/predicted"] == figures[name]["positive/target"]
    assert figures["genatt"]["positive/predicted"] != figures["genatt"]["positive/target"]
    rows = pq.read_table(tmp_path / "one" / "samples.parquet").to_pandas()
    assert len(rows) == 3 * 6 and list(rows["image"][:3]) == ["blue/0.png", "blue/1.png", "green/0.png"]
    for name, by in rows.groupby("method"):
        for figure in ("positive/predicted", "negative/target"):
            assert by[figure].mean() == pytest.approx(figures[name][figure]["mean"])
            curves = torch.tensor(np.stack(by[f"curve/{figure}"]))
            torch.testing.assert_close(
                area(curves, PROTOCOL.shares).double(), torch.tensor(by[figure].to_numpy()).double()
            )
    assert found["accuracy"] == pytest.approx((rows["label"] == rows["predicted"]).mean())
    assert Image.open(tmp_path / "one" / "samples.png").width > 300
    again = run(vit, folder, tmp_path / "two", *options, "--batch_size", "6", "--pictures", "0")
    assert again["methods"] == found["methods"], "whatever the batches, the same figures"


def test_what_is_wrong_is_named(vit: Path, folder: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--methods", "genat"], "unknown explainer 'genat'; did you mean 'genatt'"),
        (["--data", str(tmp_path / "no")], "--data: .*no is no folder"),
        (["--samples", "0"], "--samples is 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(vit, folder, tmp_path, *options)
    (tmp_path / "data" / "pink").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "data" / "pink" / "a.png")
    with pytest.raises(SystemExit, match="unknown class 'pink'"):
        run(vit, tmp_path / "data", tmp_path)


def test_a_damaged_image_costs_no_other_its_figures(vit: Path, folder: Path, tmp_path: Path, capfd: Any) -> None:
    damaged = tmp_path / "images"
    shutil.copytree(folder, damaged)
    (damaged / "red" / "0.png").write_bytes(b"no image")
    result = run(vit, damaged, tmp_path / "out", "--methods", "raw_attention")
    assert result["samples"] == 5 and "red/0.png" in capfd.readouterr().out
    assert "red/0.png" not in pq.read_table(tmp_path / "out" / "samples.parquet")["image"].to_pylist()
    for path in damaged.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(SystemExit, match="none of 6 images can be read"):
        run(vit, damaged, tmp_path / "nothing")
