"""Captions on the one benchmark: maps made up by hand against scenes, and runs that are shared, damaged and reported."""

import json
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmapper import images
from clipmapper.benchmark.measure import RANDOM, BatchResult, joined, measure
from clipmapper.benchmark.run import FOLDER, Outcome, run
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Explained
from clipmapper.benchmark.tasks import captions
from clipmapper.benchmark.tasks.captions import GROUND_TRUTH, CaptionsTask
from clipmapper.config import DataConfig
from clipmapper.data.captions import Captions
from clipmapper.data.records import load_caption_split
from clipmapper.data.shapes.scene import Scene, Thing
from clipmapper.explain.captions import tokens_of
from clipmapper.explain.ground_truth import scene_region
from clipmapper.explain.models import captioner
from clipmapper.images import BadImage
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import World
from xai.explainers.registry import METHODS
from xai.metrics.protocols import SCHEDULES

CONFIG = BenchmarkConfig(
    methods="wra,rollout",
    protocol="wra",
    samples=3,
    batch_size=2,
    random_seeds=1,
    resamples=100,
    cost_samples=0,
    gallery=2,
)
ROWS = ("wra", "rollout", "wra/bleu4", "wra/cider", RANDOM)


@pytest.fixture(scope="module")
def quick() -> Any:
    """Two steps of removal; no METEOR, whose Java takes seconds to start."""
    which = shutil.which
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None if name == "java" else which(name))
        patch.setitem(SCHEDULES, "wra", (0.5, 1.0))
        yield


@pytest.fixture(scope="module")
def model() -> CLIPMapper:
    return CLIPMapper.from_pretrained("shapes-b-caption")


def task_of(
    model: CLIPMapper, root: Path, config: BenchmarkConfig, scenes: bool = True, **options: Any
) -> CaptionsTask:
    records, folder = load_caption_split(DataConfig(root=root), "val")
    split = Captions(records, folder, model.clip)
    return CaptionsTask(model, split, config, root if scenes else None, model.clip, **options)


@pytest.fixture(scope="module")
def task(quick: None, model: CLIPMapper, shapes_root: Path) -> CaptionsTask:
    return task_of(model, shapes_root, CONFIG)


SCENE = Scene(
    (
        Thing("square", "red", "large", 32, 32, 28, 0.0, (255, 0, 0)),
        Thing("star", "blue", "large", 32, 96, 28, 0.0, (0, 0, 255)),
    ),
    "plain", ((0, 0, 0), (0, 0, 0)), False, 0,
)  # fmt: skip
TEXTS = ("a red square", "a blue star")  # whose every word is one token


@pytest.fixture
def planted(quick: None, model: CLIPMapper, shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> CaptionsTask:
    """Two captions of SCENE. The square covers patches 1 and 2 of rows 1 and 2, nothing is on the right or below row 7.

    "red" is on the square, "square" half on it and half on nothing, "blue" on nothing, and "star" nowhere. "red" goes back on
    "a" as much as on the image.
    """
    maps = torch.zeros(6, 8, 8)
    maps[1, 1, 1] = 3
    maps[2, 1, 1] = maps[2, 0, 7] = 2
    maps[4, 0, 7] = 1
    computed = Explained.relevances

    def relevances(self: Explained, *arguments: Any) -> Any:
        steps = computed(self, *arguments)
        if "wra" in self.errors:
            return steps
        image = torch.cat([torch.full((6, 1), 100.0), maps.flatten(1)], dim=1)  # the class token counts nowhere
        text = torch.zeros_like(next(iter(steps.values())).scores["text"])
        text[1, 1] = 3
        return {name: relevance.with_scores({"image": image, "text": text}) for name, relevance in steps.items()}

    monkeypatch.setattr(Explained, "relevances", relevances)
    monkeypatch.setattr(captioner, "written", lambda model, pixels: [tokens_of(model, text) for text in TEXTS])
    config = replace(CONFIG, methods="wra", samples=2, removal=False)
    task = task_of(model, shapes_root, config)
    task.scenes = [SCENE, SCENE]
    return task


def values_of(task: CaptionsTask) -> BatchResult:
    return measure(task, range(2), ("wra",), task.config)


def test_where_made_up_maps_fall(planted: CaptionsTask) -> None:
    values = {key: value[0] for key, value in values_of(planted).values.items()}
    chance = float(scene_region(SCENE, [1], (8, 8)).mean())  # of a map without relevance
    inside, outside = 3 + 2, 2
    assert values["caption/mass"] == pytest.approx([inside / (inside + outside), 0])
    assert values["colour/mass"] == pytest.approx([1, 0])
    assert values["shape/mass"] == pytest.approx([0.5, chance])
    assert values["shape/no_positive"].tolist() == [0, 1]
    for figure in ("mass", "rank", "no_positive"):  # no caption says a size
        assert np.isnan(values[f"size/{figure}"]).all() and values[f"size/{figure}"].shape == (2,)


def test_shares_of_words_for_what_is_there_and_what_is_not(planted: CaptionsTask) -> None:
    planted.scenes = [SCENE, replace(SCENE, things=SCENE.things[:1])]  # there is no star
    values = {key: value[0] for key, value in values_of(planted).values.items()}
    assert values["there/image_share"] == pytest.approx([(0.5 + 1) / 2, np.nan], nan_ok=True)
    assert values["absent/image_share"] == pytest.approx([np.nan, 1], nan_ok=True)


def test_weighted_wholes(planted: CaptionsTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weight on "square" and on "blue", by CIDEr; words have no weighted maps."""

    def weights(model: CLIPMapper, tokens: Any, references: Any, name: str, images: Sequence[int]) -> list[Tensor]:
        if name == "bleu4":
            raise ValueError("no BLEU today")
        assert list(images) == [0, 1] and len(references) == 2
        return [torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 1, 0])]

    monkeypatch.setattr(captions, "caption_weights", weights)
    result = values_of(planted)
    assert planted.names(("wra",)) == ("wra", "wra/bleu4", "wra/cider")
    assert result.values["caption/mass"][2] == pytest.approx([0.5, 0])
    assert np.isnan(result.values["caption/mass"][1]).all() and result.errors == {"wra/bleu4": "no BLEU today"}
    assert np.isnan(result.values["shape/mass"][1:3]).all() and np.isfinite(result.values["shape/mass"][3]).all()


def test_weighted_rows_fail_with_their_method(planted: CaptionsTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(METHODS, "wra", replace(METHODS["wra"], function=broken))
    result = values_of(planted)
    assert result.errors == dict.fromkeys(("wra", "wra/bleu4", "wra/cider"), "RuntimeError: no such thing")
    assert np.isnan(result.values["caption/mass"][:3]).all() and np.isfinite(result.values["caption/mass"][3]).all()


def test_what_cannot_be_measured_is_said_first(quick: None, model: CLIPMapper, shapes_root: Path) -> None:
    with pytest.raises(ValueError, match="data without scenes are measured by removal alone"):
        task_of(model, shapes_root, replace(CONFIG, removal=False), scenes=False)
    with pytest.raises(ValueError, match="2 images at least"):
        task_of(model, shapes_root, replace(CONFIG, samples=1))


def test_images_without_caption_are_left_out(task: CaptionsTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image cannot be read, the model says nothing of another."""
    load, write = images.load_image, captioner.written

    def damaged(source: Any) -> Any:
        if source == task.split.source(task.rows[1]):
            raise BadImage("damaged")
        return load(source)

    with monkeypatch.context() as patch:
        patch.setattr(images, "load_image", damaged)
        assert task.batch(range(3)).records["row"] == [0, 2]
        with pytest.raises(BadImage, match="none of 1 images"):
            task.batch([1])
    monkeypatch.setattr(captioner, "written", lambda model, pixels: [[], *write(model, pixels)[1:]])
    batch = task.batch(range(3))
    assert batch.records["row"] == [1, 2] and len(batch.inputs.inputs) == len(batch.inputs.tokens) == 2


def test_parts_with_other_metrics_lose_none() -> None:
    one = BatchResult([1], {"row": [0]}, {"a": np.ones((2, 1))}, {}, {})
    two = BatchResult([2], {"row": [1]}, {"a": np.ones((2, 1)), "b": np.full((2, 1, 3), 2.0)}, {}, {})
    values = joined([one, two]).values
    assert values["a"].shape == (2, 2) and np.isnan(values["b"][:, 0]).all() and (values["b"][:, 1] == 2).all()


@pytest.fixture(scope="module")
def outcome(task: CaptionsTask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("captions")
    return run(task, CONFIG, folder, World()), folder


def test_table_and_report(outcome: tuple[Outcome, Path], task: CaptionsTask) -> None:
    result, folder = outcome
    metrics = result.metrics
    assert metrics["samples"] == 3 and set(metrics["methods"]) - set(ROWS) == {
        f"{next(iter(metrics['methods']))} inverted"
    }
    wra, rollout = metrics["methods"]["wra"]["metrics"], metrics["methods"]["rollout"]["metrics"]
    assert wra["caption/log_probability/srg"]["mean"] > rollout["caption/log_probability/srg"]["mean"]
    assert wra["colour/mass"]["mean"] > rollout["colour/mass"]["mean"]
    assert metrics["methods"]["wra/cider"]["metrics"]["colour/mass"]["mean"] is None
    page = result.report
    assert page.kind == "captions" and "java is not installed" in page.facts["weights by meteor"]
    assert {column.key for column in page.columns if column.printed} >= {"caption/CIDEr/srg", "shape/mass"}
    assert len(page.charts) == 6 and len(page.gallery) == 2
    for sample in page.gallery:
        assert sample.explanations.keys() == {"wra", "rollout", GROUND_TRUTH} and isinstance(sample.right, bool)
        for explanation in sample.explanations.values():
            assert len(explanation.steps) == len(explanation.words) > 3
            assert " ".join(word for word, _ in explanation.words).replace(" ,", ",").startswith(sample.question[:5])
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "curves.png").is_file()
    json.dumps(metrics, allow_nan=False)


def test_a_damaged_part_is_measured_again(
    outcome: tuple[Outcome, Path], task: CaptionsTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = outcome
    shutil.copytree(folder, tmp_path / "copy")
    part = tmp_path / "copy" / FOLDER / "values-00001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    rows: list[list[int]] = []
    batch = CaptionsTask.batch
    monkeypatch.setattr(CaptionsTask, "batch", lambda self, some: (rows.append(list(some)), batch(self, some))[1])
    assert run(task, CONFIG, tmp_path / "copy", World()).metrics == result.metrics
    assert rows == [[2]]


def test_two_processes_are_one(
    outcome: tuple[Outcome, Path], task: CaptionsTask, shapes_root: Path, tmp_path: Path
) -> None:
    """The second one, with a model of its own, measures its batch first: two recordings at once share torch's state."""
    other = task_of(CLIPMapper.from_pretrained("shapes-b-caption"), shapes_root, CONFIG)
    outcomes: list[Outcome] = []
    second = threading.Thread(target=lambda: outcomes.append(run(other, CONFIG, tmp_path, World(1, 2))))
    second.start()
    while second.is_alive() and not (tmp_path / FOLDER / "values-00001.parquet").is_file():
        time.sleep(0.05)
    first = run(task, CONFIG, tmp_path, World(0, 2))
    second.join()
    assert first.metrics == outcomes[0].metrics == outcome[0].metrics
