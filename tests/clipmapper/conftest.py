"""A tiny data set, a small CLIP with random weights, and settings of runs that last a second."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from PIL import Image

from clipmapper.cli import Settings, parse_training
from clipmapper.config import ShapesConfig
from clipmapper.data.shapes.write import write_shapes
from clipmapper.models import clip
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.training.run import run


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


create_clip = cache(clip.create_clip)


@pytest.fixture(autouse=True, scope="module")
def copied_clip(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most tests make several CLIPs of Shapes: copies of one that was made, but where the making is tested."""

    def copied(name: str, pretrained: str | None) -> Any:
        if name != SHAPES_CLIP or pretrained not in (None, "shapes"):
            return create_clip.__wrapped__(name, pretrained)
        return deepcopy(create_clip(name, pretrained))

    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem != "test_clip":
            patch.setattr(clip, "create_clip", copied)
        yield


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 27 validation questions; treat it as read-only."""
    root = tmp_path_factory.mktemp("tiny") / "shapes"
    write_shapes(root, ShapesConfig(train=20, val=9, test=0, questions=3))
    return root


@pytest.fixture(scope="session")
def foreign() -> Callable[..., Path]:
    """Writes a toy data set as a stranger would lay it out: own ids, own answers, plain file names, no answer types."""
    return write_foreign


def write_foreign(root: Path, train: int = 6, val: int = 3) -> Path:
    """Questions, two an image; returns `root`."""
    for split, count in (("train", train), ("val", val)):
        folder = root / f"{split}2014"
        folder.mkdir(parents=True)
        questions: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(count):
            image = i // 2
            Image.new("RGB", (40, 30), (40 * image, 0, 0)).save(folder / f"{image}.png")
            key = {"question_id": 100 * count + i, "image_id": image}
            questions.append(key | {"question": f"What is thing {i}?"})
            answer = ["oak", "The elm", "ash"][i % 3]
            annotations.append(key | {"answers": [{"answer": answer}] * 10})
        name = f"{split}2014"
        (root / f"v2_OpenEnded_mscoco_{name}_questions.json").write_text(json.dumps({"questions": questions}))
        (root / f"v2_mscoco_{name}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return root


@pytest.fixture(scope="session")
def small_clip() -> FrozenCLIP:
    return FrozenCLIP(SHAPES_CLIP, None)


@pytest.fixture
def tokens(small_clip: FrozenCLIP) -> torch.Tensor:
    """Image tokens [3, 65, 128] of three different images."""
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return small_clip.image_tokens(pixels)


@pytest.fixture(scope="session")
def tiny_config(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file: 2 epochs of 8 steps, cached features, dropout, CSV logs."""
    folder = tmp_path_factory.mktemp("config")
    config = {
        "model": {"clip": SHAPES_CLIP, "pretrained": None, "width": 16, "heads": 2, "layers": 1, "dropout": 0.1},
        "data": {"root": str(shapes_root), "cache": str(folder / "features"), "batch_size": 8, "workers": 0},
        "optimizer": {"lr": 3e-3, "warmup_steps": 3, "decay_from": 6},
        "run": {"loggers": ["csv"], "examples": 0, "checkpoint_every": 3},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def finished_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny run of one epoch; treat it as read-only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = [f"--config={tiny_config}", f"--run.dir={folder}", "--trainer.max_epochs=1"]
    run(parse_training(arguments, tiny_config.parent))
    return folder


@pytest.fixture
def settings(tiny_config: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a tiny run into `tmp_path / name`, with further options such as `--model.mapper=a`."""

    def make(name: str, *options: str) -> Settings:
        arguments = [f"--config={tiny_config}", f"--run.dir={tmp_path / name}", *options]
        return parse_training(arguments, tiny_config.parent)

    return make
