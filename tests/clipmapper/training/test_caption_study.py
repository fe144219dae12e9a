"""Explanations of captions in validation: what they log is what measuring the model gives, and training is left alone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clipmapper.training.caption_study import CaptionStudy, captioned, held_out, truth_figures
from PIL import Image

from clipmapper.caption_relevance import measure as measure_module
from clipmapper.caption_relevance.measure import AVERAGE, Captioned, Measured, Rule, explain_part, measure_part
from clipmapper.caption_relevance.perturbation import Judge, dropping
from clipmapper.cli import Settings
from clipmapper.config import DecodingConfig, ExplainConfig, OptimizerConfig
from clipmapper.data.records import load_captions
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training import caption_study as study_module
from clipmapper.training.run import explaining, run, task_and_data, train
from clipmapper.training.tasks import CaptionTask, model_from_checkpoint
from xai.explain import METHODS
from xai.metrics.protocols import SCHEDULES, area, srg
from xai.results.captions import average

from .test_run import logged, same

SHORT = (
    "--model.task=caption",
    "--model.tokens=seen",
    "--run.captioned=2",
    "--run.examples=0",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
)
EXPLAINED = (
    *SHORT,
    "--explain.every=1",
    "--explain.methods=[wra,rollout]",
    "--explain.samples=3",
    "--explain.batch_size=2",
    "--explain.pictures=1",
    "--explain.protocol=wra",
    "--explain.seconds=null",
)
MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions of five tokens, four steps of removal, one random map."""
    monkeypatch.setitem(SCHEDULES, "wra", (0.0, 0.5, 0.75, 1.0))
    monkeypatch.setattr(measure_module, "SEEDS", range(1))
    for name in ("explain.captions", "caption_relevance.perturbation", "training.tasks"):
        monkeypatch.setattr(f"clipmapper.{name}.DecodingConfig", Short)


def Short() -> DecodingConfig:
    return DecodingConfig(length=5)


def go(settings: Settings) -> dict[str, Any]:
    train(settings, load_captions(settings.data))
    return read_checkpoint(settings.run.dir / "checkpoints" / "last.ckpt")


def test_training_is_the_same_and_figures_are_those_of_the_model(settings: MakeSettings, tmp_path: Path) -> None:
    plain = go(settings("plain", *SHORT))
    explained = go(settings("explained", *EXPLAINED))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(plain[part], explained[part]), part
    for name in ("train/loss", "val/CIDEr", "val/loss"):
        assert logged(tmp_path / "plain", name) == logged(tmp_path / "explained", name)
    folder = tmp_path / "explained"
    assert set(logged(folder, "explain/samples").values()) == {3.0}
    made = settings("again", *EXPLAINED)
    model = model_from_checkpoint(explained, "it")
    images = held_out(task_and_data(made, load_captions(made.data))[1].val, 3, made.data.root)
    expected = by_hand(model, images)
    for figure, curves in expected.curves.items():
        areas = area(curves, SCHEDULES["wra"])
        for i, method in enumerate(("wra", "rollout", "random")):
            (gain,) = logged(folder, f"explain/image/{figure}/{method}/srg").values()
            assert gain == pytest.approx(float(srg(areas)[i].mean()), abs=1e-4), (figure, method)
    check_pictures(folder)


def by_hand(model: CLIPMapper, images: Captioned) -> Measured:
    """All captions in one batch; the judge counts all images."""
    kept, part = captioned(model, images, range(3))
    assert kept == [0, 1, 2]
    rule = Rule(
        [("wra", AVERAGE), ("rollout", AVERAGE)],
        dropping("wra"),
        Judge.of(model.clip, images.sources, images.references),
    )
    equal = {AVERAGE: [average(len(caption)) for caption in part.tokens]}
    return measure_part(model, part, explain_part(model, part, ["wra", "rollout"]), equal, rule, kept)


def test_truth_and_curves_are_means_over_images(settings: MakeSettings) -> None:
    """Of a model that names objects: three images in batches of two and of one, and all in one batch by hand."""
    made = settings("run", *EXPLAINED)
    data: Any = task_and_data(made, load_captions(made.data))[1]
    model = CLIPMapper.from_pretrained("shapes-b-caption")
    alone = SimpleNamespace(reduce=lambda values, reduce_op: values)
    trainer: Any = SimpleNamespace(
        lightning_module=CaptionTask(model, OptimizerConfig(), 0, {}),
        datamodule=data, strategy=alone, global_rank=0, world_size=1,
    )  # fmt: skip
    found = CaptionStudy(made.explain, made.data.root).explain(trainer, model)
    expected = by_hand(model, held_out(data.val, 3, made.data.root))
    figures = truth_figures(expected, 3)
    assert found.samples == 3 and found.figures.keys() == figures.keys()
    for name, values in figures.items():
        assert found.figures[name].tolist() == pytest.approx(values.nanmean(dim=1).tolist()), name
        assert name.startswith("truth/size") or values.isfinite().any(), "else nothing was compared"
    assert sorted(found.curves()) == ["image/CIDEr", "image/RefCLIPScore", "image/log_probability"]


def check_pictures(folder: Path) -> None:
    (table,) = folder.rglob("tables/*.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [["trained", name] for name in ("wra", "rollout", "random")]
    assert "image/RefCLIPScore/srg" in lines[0] and len(lines[0]) == 2 + 9
    words, whole = sorted(folder.rglob("examples/explain%2Fpictures/*/*.png"))
    assert Image.open(words).text["Description"].startswith("wra, word by word: ")  # type: ignore[attr-defined]
    assert "(given: " in Image.open(whole).text["Description"]  # type: ignore[attr-defined]
    assert Image.open(words).width > Image.open(whole).width > 300  # five words, two methods


def test_means_are_over_the_words_of_an_image() -> None:
    """Image 7 has two colours, 8 one; "wra" has (0.2, 0.4) and 1, chance, which comes last, is left out."""
    in_words = np.zeros((3, 3, 4))
    in_words[0, 0] = [0.2, 0.4, 0.9, 1]
    in_whole = np.array([[[0.5, np.nan]] * 3] * 3)
    words = {"kind": ["colour", "colour", "shape", "colour"], "image_id": [7, 7, 7, 8]}
    found = truth_figures(Measured(words, in_words, in_whole, 0, {}), methods=2)
    assert sorted(found["truth/colour_mass"][0].tolist()) == pytest.approx([0.3, 1])
    assert found["truth/shape_mass"][0].tolist() == [0.9] and found["truth/size_mass"].shape[0] == 2
    assert found["truth/size_mass"].numel() == 0 and found["truth/whole_mass"].shape == (2, 2)
    assert truth_figures(Measured({}, None, None, 0, {}), 2) == {}


def test_a_reference_is_another_captioner(settings: MakeSettings, tmp_path: Path) -> None:
    go(settings("first", *SHORT))
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    go(settings("run", *EXPLAINED, "--explain.pictures=0", f"--explain.reference_models=[{checkpoint}]"))
    name = "image/log_probability/wra/srg"
    (reference,) = logged(tmp_path / "run", f"explain/reference/{checkpoint}/{name}").values()
    (end,) = logged(tmp_path / "run", f"explain/{name}").values()
    assert reference == pytest.approx(end, abs=1e-6), "the same seed ends with the same weights"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--explain.methods=[wraa]", "unknown explainer 'wraa'; did you mean 'wra'"),
        ("--explain.methods=[]", "explain.methods is empty"),
        ("--explain.samples=1", "there must be 2 at least"),
        ("--explain.reference_models=[shapes-b-vqa]", "'shapes-b-vqa' is no captioner to compare with"),
        ("--explain.reference_models=[{kind: clip, name: 'a:b'}]", "'clip:a:b' answers questions"),
    ],
)
def test_what_cannot_be_explained_is_said_before_training(settings: MakeSettings, option: str, message: str) -> None:
    with pytest.raises(SystemExit) as left:
        run(settings("run", *EXPLAINED, option))
    assert message in str(left.value)
    assert not list(settings("run").run.dir.rglob("*.ckpt"))


def test_silent_models_are_left_out(monkeypatch: pytest.MonkeyPatch, shapes_root: Path) -> None:
    """Early in training a model may say nothing: of three images it speaks about the second only."""
    model = CLIPMapper.from_pretrained("shapes-b-caption")
    picture = Image.new("RGB", (64, 64))
    images = Captioned([5, 6, 7], [picture] * 3, [["a"], ["b"], ["c"]], [])
    monkeypatch.setattr(study_module, "written", lambda model, pixels: [[], [3, 4], []])
    kept, part = captioned(model, images, [0, 1, 2])
    assert kept == [1] and part.ids == [6] and part.references == [["b"]] and part.tokens == [[3, 4]]
    assert captioned(model, images, [])[0] == []


def test_a_failing_method_is_left_out_of_pictures(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings("run", *EXPLAINED)
    data: Any = task_and_data(made, load_captions(made.data))[1]
    task = CaptionTask(CLIPMapper.from_pretrained("shapes-b-caption"), OptimizerConfig(), 0, {})
    trainer: Any = SimpleNamespace(lightning_module=task, datamodule=data)
    study = CaptionStudy(made.explain, made.data.root)
    monkeypatch.setitem(METHODS, "wra", None)
    texts = [text for _, text in study.pictures(trainer, task)]
    assert texts[0].startswith("rollout, word by word: ")
    monkeypatch.setitem(METHODS, "rollout", None)
    assert list(study.pictures(trainer, task)) == []


def test_the_study_is_that_of_the_task(settings: MakeSettings) -> None:
    (callback,) = explaining(settings("run", *EXPLAINED))
    assert isinstance(callback.study, CaptionStudy)  # type: ignore[attr-defined]
    assert explaining(settings("run", *SHORT)) == []
    with pytest.raises(ValueError, match="of captions"):
        CaptionStudy(ExplainConfig(), None).model(torch.nn.Module())  # type: ignore[arg-type]
