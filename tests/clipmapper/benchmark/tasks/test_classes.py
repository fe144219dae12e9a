"""ImageNet's perturbation: areas by hand, the command, what is damaged or wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
from PIL import Image
from torch import Tensor, nn

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch
from clipmapper.benchmark.tasks.classes import PROTOCOL, ClassesTask
from clipmapper.benchmark.tasks.vision import Vision
from clipmapper.evaluation.papers import main
from xai import Adapter
from xai.figures.geometry import squash
from xai.metrics.protocols import area


class Bright(nn.Module):
    """Class 1 if the upper left pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 0, 0]
        return torch.stack([0.5 - bright, bright], dim=1)


VISION = Vision(Bright(), Adapter((), None), None, "x", lambda size: squash(size, 4), torch.zeros(3, 1, 1), {}, 2)  # type: ignore[arg-type]


def curves(unit: str, maps: Tensor, labels: list[int]) -> dict[str, Tensor]:
    """Of maps [methods, B, rows, columns] on images of 4 x 4 bright pixels."""
    task = object.__new__(ClassesTask)
    task.vision, task.unit_of_removal, task.config = VISION, unit, BenchmarkConfig()
    batch = Batch(list(range(len(labels))), torch.ones(len(labels), 3, 4, 4), {})
    return dict(task._removal(batch, torch.tensor(labels), (2, 2))(maps.flatten(2)))


def test_areas_by_hand() -> None:
    """Of 4 patches 3, 3, 2, 2, 2, 1, 1, 0, 0 are left; the first decides.

    If it is the most relevant, it goes at once (positive), or stays for the first seven steps (negative): (6 + 1/2) / 8.
    """
    maps = torch.tensor([[[[9.0, 1.0], [2.0, 3.0]]], [[[0.0, 1.0], [2.0, 3.0]]]])
    found = curves("patches", maps, [1])
    areas = [area(found[f"accuracy/{d}"], PROTOCOL.shares)[:, 0].tolist() for d in ("positive", "negative")]
    assert areas == [pytest.approx([0, 6.5 / 8]), pytest.approx([6.5 / 8, 0])]
    assert curves("patches", maps, [0])["accuracy/positive"][0].tolist() == [[1.0] * 9], "without it the class is 0"


def test_pixels_go_by_the_relevance_between_the_patches() -> None:
    """16 pixels, of which 14, 12, 11, 9, 8, 6, 4, 3, 1 are left; the corner is the one that lasts longest."""
    found = curves("pixels", torch.tensor([[[9.0, 1.0], [2.0, 3.0]]]).expand(1, 2, 2, 2), [1, 1])
    assert found["accuracy/positive"].shape == (1, 2, 9)
    assert found["accuracy/positive"].eq(0).all() and found["accuracy/negative"].eq(1).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        (root / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def run(vit: Path, folder: Path, output: Path, *options: str) -> dict[str, Any]:
    short = ["--device", "cpu", "--benchmark.resamples", "100", "--benchmark.cost_samples", "0"]
    main(["imagenet", "--model", str(vit), "--data", str(folder), "--output", str(output), *short, *options])
    return json.loads((output / "metrics.json").read_text())["methods"]


def test_the_command(vit: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "genatt,rollout", "--pictures", "2"]
    methods = run(vit, folder, tmp_path / "one", *options, "--batch_size", "4", "--benchmark.cost_samples", "1")
    printed = capsys.readouterr().out
    assert "Order of 2 methods" in printed and "6 images" in printed and set(methods) > {"genatt", "rollout", "random"}
    values = {name: entry["metrics"] for name, entry in methods.items()}
    for name in ("rollout", "random"):
        assert values[name]["predicted/accuracy/positive"] == values[name]["target/accuracy/positive"]
    assert values["genatt"]["predicted/accuracy/positive"] != values["genatt"]["target/accuracy/positive"]
    frame = pq.read_table(tmp_path / "one" / "values.parquet").to_pandas()
    curve = frame[(frame["method"] == "genatt") & (frame["metric"] == "target/accuracy/negative")]
    by_step = torch.tensor(curve.groupby("step")["value"].mean().to_numpy())
    assert values["genatt"]["target/accuracy/negative"]["mean"] == pytest.approx(float(area(by_step, PROTOCOL.shares)))
    samples = pq.read_table(tmp_path / "one" / "samples.parquet").to_pydict()
    assert samples["name"][:3] == ["blue/0.png", "blue/1.png", "green/0.png"]
    assert methods["genatt"]["cost"]["forward"] == 1 and "model" in methods["genatt"]["sanity"]
    again = run(vit, folder, tmp_path / "two", *options, "--batch_size", "6")
    for name in ("genatt", "rollout", "random"):
        assert again[name]["metrics"] == methods[name]["metrics"], "whatever the batches, the same values"
    (tmp_path / "two" / "explainers" / "values-00000.parquet").unlink()
    assert run(vit, folder, tmp_path / "two", *options, "--batch_size", "6") == again


def test_what_is_wrong_is_named(vit: Path, folder: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--methods", "genat"], "unknown method 'genat'; did you mean 'genatt'"),
        (["--data", str(tmp_path / "no")], "--data: .*no is no folder"),
        (["--samples", "0"], r"benchmark\.samples is 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(vit, folder, tmp_path, *options)
    (tmp_path / "data" / "pink").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "data" / "pink" / "a.png")
    with pytest.raises(SystemExit, match="unknown class 'pink'"):
        run(vit, tmp_path / "data", tmp_path)


def test_a_damaged_image_costs_no_other_its_values(vit: Path, folder: Path, tmp_path: Path, capfd: Any) -> None:
    damaged = tmp_path / "images"
    shutil.copytree(folder, damaged)
    (damaged / "red" / "0.png").write_bytes(b"no image")
    run(vit, damaged, tmp_path / "out", "--methods", "raw_attention")
    assert "red/0.png" in capfd.readouterr().out
    names = pq.read_table(tmp_path / "out" / "samples.parquet")["name"].to_pylist()
    assert len(names) == 5 and "red/0.png" not in names
    for path in damaged.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(SystemExit, match="none of 6 images can be read"):
        run(vit, damaged, tmp_path / "nothing")


def test_imagenet_by_wordnet_id_though_two_classes_have_one_name(tmp_path: Path) -> None:
    names = {i: f"thing {i}" for i in range(1000)} | {134: "crane", 517: "crane"}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = tf.ViTConfig(**sizes, image_size=16, patch_size=8, id2label=names)
    tf.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    tf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    for folder in ("ids/n01440764", "ids/n02012849", "ids/n03126707", "names/crane"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / folder / "0.png")
    run(tmp_path / "vit", tmp_path / "ids", tmp_path / "out", "--methods", "rollout")
    assert pq.read_table(tmp_path / "out" / "samples.parquet")["class"].to_pylist() == [0, 134, 517]
    with pytest.raises(SystemExit, match=r"unknown class 'crane'.*--labels FILE"):
        run(tmp_path / "vit", tmp_path / "names", tmp_path / "out", "--methods", "rollout")
