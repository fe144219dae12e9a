"""The callback with one reference model of each kind beside the trained one."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from clipmapper.comparison import measure as measure_module
from clipmapper.comparison.explained import ask, explain_all
from clipmapper.comparison.measure import measure
from clipmapper.training.answer_study import AnswerStudy, common_answers

from clipmapper.cli import Settings
from clipmapper.config import ModelConfig, ReferenceConfig
from clipmapper.data.records import load_records
from clipmapper.explain.models.load import load_reference
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training import explainability
from clipmapper.training.run import run, task_and_data
from xai.metrics.protocols import area, named, srg

from ...training.test_run import logged, same

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
EXPLAINED = (
    *SHORT,
    "--explain.every=1",
    "--explain.methods=[wra]",
    "--explain.samples=2",
    "--explain.batch_size=2",
    "--explain.pictures=0",
    "--explain.protocol=wra",
    "--explain.seconds=null",
)
MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "RANDOM_SEEDS", range(1))
    monkeypatch.setattr(explainability, "CURVE_RESAMPLES", 20)


def option(*references: ReferenceConfig) -> str:
    plain = [{k: v for k, v in asdict(reference).items() if v is not None} for reference in references]
    return f"--explain.reference_models={json.dumps(plain, default=str)}"


def test_one_of_each_kind(settings: MakeSettings, saved: dict[str, ReferenceConfig], tmp_path: Path) -> None:
    config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", width=16, heads=2, layers=1)
    CLIPMapper(config, ["yes", "no"]).save_pretrained(tmp_path / "mapper")
    made = settings("run", *EXPLAINED, option(ReferenceConfig(str(tmp_path / "mapper")), *saved.values()))
    run(made)
    names = [str(tmp_path / "mapper"), *(reference.label for reference in saved.values())]
    (table,) = (tmp_path / "run").rglob("tables/*.csv")
    with open(table) as file:
        _, *rows = csv.reader(file)
    assert [row[:2] for row in rows] == [[name, m] for name in ("trained", *names) for m in ("wra", "random")]
    assert all(math.isfinite(float(value)) for row in rows for value in row[2:])
    pictures = list((tmp_path / "run").rglob("examples/explain%2Fcurves/*/*.png"))
    assert len(pictures) == 1 + len(names)

    records = load_records(made.data)
    data: Any = task_and_data(made, records)[1]
    common = common_answers(data, records.vocabulary.answers)
    chosen = AnswerStudy(made.explain, None).rows(data.val)
    for reference in saved.values():
        model = load_reference(reference, common)
        found = measure(model, explain_all(model, ask(model, data.val, chosen), ("wra",)), "wra", None)
        areas = area(torch.from_numpy(found.curves["image/probability"]), named("wra", "image").shares)
        folder, prefix = tmp_path / "run", f"explain/reference/{reference.label}"
        (value,) = logged(folder, f"{prefix}/image/probability/wra/srg").values()
        assert value == pytest.approx(float(srg(areas)[0].mean()), abs=1e-5)
        for name in ("truth/text_mass/wra", "truth/image_rank/wra", "image_share/wra"):
            (value,) = logged(folder, f"{prefix}/{name}").values()
            assert 0 <= value <= 1, name
        assert list(logged(folder, f"{prefix}/samples").values()) == [2.0], "once"

    run(settings("plain", *SHORT))
    states = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("run", "plain")]
    assert same(states[0]["state_dict"], states[1]["state_dict"]), "training is the same"


def test_images_without_regions_are_said_before_training(
    settings: MakeSettings, saved: dict[str, ReferenceConfig], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    reference = ReferenceConfig(saved["lxmert"].name, "lxmert", regions=tmp_path / "empty")
    with pytest.raises(SystemExit) as left:
        run(settings("run", *EXPLAINED, option(reference)))
    message = str(left.value)
    assert "explain.reference_models" in message and "no regions of image" in message and "Leave it out" in message
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_the_commonest_answers_come_first(settings: MakeSettings) -> None:
    made = settings("run")
    records = load_records(made.data)
    data: Any = task_and_data(made, records)[1]
    given = list(data.train.records["answer"])
    found = common_answers(data, sorted(records.vocabulary.answers))
    counts = [given.count(answer) for answer in found]
    assert sorted(found) == sorted(records.vocabulary.answers) and counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
