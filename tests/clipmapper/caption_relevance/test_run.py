"""Explainers of captions compared: what is written, that a killed run goes on, and what the report holds."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import xai
from clipmapper.caption_relevance import measure, page, parts, run, summary
from clipmapper.caption_relevance.measure import AVERAGE, RANDOM, Captioned, Measured, caption_images
from clipmapper.caption_relevance.run import Plan, best_of, compare, wholes_of
from clipmapper.cli import parse_evaluation
from clipmapper.config import DataConfig
from clipmapper.data.captions import Captions
from clipmapper.data.records import load_caption_split
from clipmapper.data.shapes.scene import Scene, Thing
from clipmapper.evaluation import run as evaluation
from clipmapper.evaluation.gallery import spread
from clipmapper.metrics.caption_truth import scenes_of
from clipmapper.models.clip_mapper import CLIPMapper
from xai import Relevance
from xai.metrics.protocols import SCHEDULES
from xai.report.data import Sample
from xai.results.captions import CaptionRelevance

GRID = (2, 2)
METHODS = ("wra", "rollout")
MAPS = ("wra", "rollout", "wra/bleu4", "wra/cider")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of removal, one random map, no METEOR, whose Java would take seconds; batches of two."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "java" else which(name))
    monkeypatch.setitem(SCHEDULES, "wra", (0.5, 1.0))
    monkeypatch.setattr(measure, "SEEDS", range(1))
    monkeypatch.setattr(summary, "SEEDS", range(1))
    monkeypatch.setattr(summary, "CURVE_RESAMPLES", 20)
    monkeypatch.setattr(run, "BATCH", 2)
    monkeypatch.setattr(run, "FILMSTRIPS", 1)


@pytest.fixture(scope="module")
def captioner() -> CLIPMapper:
    return CLIPMapper.from_pretrained("shapes-b-caption")


@pytest.fixture(scope="module")
def plan(captioner: CLIPMapper, shapes_root: Path) -> Plan:
    records, root = load_caption_split(DataConfig(root=shapes_root), "val")
    captioned = caption_images(captioner, Captions(records, root, captioner.clip), 3, 3)
    captioned = replace(captioned, scenes=scenes_of(shapes_root, captioned.ids))
    return Plan(captioned, METHODS, "wra", captioner.clip, {"data": "tiny"})


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("quick")
def test_a_killed_comparison_goes_on(
    captioner: CLIPMapper, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two batches is not measured twice, nor the first one again."""
    asked: list[int] = []
    measured = run.measure_part

    def counted(*arguments: Any) -> Measured:
        asked.append(arguments[-1][0])
        if asked == [0, 2]:
            raise Killed
        return measured(*arguments)

    monkeypatch.setattr(run, "measure_part", counted)
    with pytest.raises(Killed):
        compare(captioner, plan, tmp_path)
    assert not (tmp_path / "report.html").exists()
    result = compare(captioner, plan, tmp_path)
    assert asked == [0, 2, 2]
    assert result == compare(captioner, plan, tmp_path) and asked == [0, 2, 2]
    check_figures(result, tmp_path)
    check_report(tmp_path)
    with pytest.raises(ValueError, match="holds a comparison with other protocol"):
        compare(captioner, replace(plan, protocol="transatt"), tmp_path)


@pytest.mark.usefixtures("quick")
def test_a_failing_method_costs_the_others_nothing(
    captioner: CLIPMapper,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = compare(captioner, replace(plan, methods=("rollout",)), tmp_path / "whole")

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no <i>such</i> thing")

    monkeypatch.setitem(xai.METHODS, "genatt", broken)
    result = compare(captioner, replace(plan, methods=("genatt", "rollout")), tmp_path / "some")
    assert result["errors"] == {"genatt": "RuntimeError: no <i>such</i> thing"} and whole["errors"] == {}
    assert "genatt failed: RuntimeError" in capsys.readouterr().out
    for name in ("rollout", RANDOM):
        assert result["words"]["shape"]["mass"][name] == whole["words"]["shape"]["mass"][name]
    assert result["words"]["shape"]["mass"]["genatt"]["mean"] is None
    srg, alone = (found["perturbation"]["CIDEr"]["srg"] for found in (result, whole))
    assert srg["rollout/average"] == alone["rollout/average"] and srg["genatt/average"]["mean"] is None
    shown = report_data(tmp_path / "some")
    assert [row["note"] for row in shown["tables"][0]["rows"][:2]] == ["RuntimeError: no <i>such</i> thing", ""]
    assert all(sample["explanations"].keys() == {"rollout", "truth"} for sample in shown["gallery"])


def check_figures(result: dict[str, Any], folder: Path) -> None:
    assert result["images"] == 3 and result["not computed"].keys() == {"meteor"}
    words = pq.read_table(folder / "words.parquet").to_pandas()
    colour = words[(words.kind == "colour") & (words.method == "rollout")]
    by_hand = colour.groupby("image_id").mass.mean().mean()
    assert result["words"]["colour"]["mass"]["rollout"]["mean"] == pytest.approx(by_hand)
    assert set(words.method) == {*METHODS, "random", "chance"}
    assert set(result["wholes"]["minus average"]["mass"]) == {"wra/bleu4", "wra/cider"}
    curves = pq.read_table(folder / "perturbation.parquet").to_pandas()
    assert len(curves) == (len(MAPS) + 1) * 2 * 3 * 2
    one = curves[(curves.weights == "cider") & (curves.direction == "positive")]
    found = result["perturbation"]["CIDEr"]["curves"]["wra/cider"]["positive"]["mean"]
    assert found == pytest.approx(one.groupby("share").CIDEr.mean().tolist())
    for name in ("curves.png", "filmstrips.png"):
        assert min(Image.open(folder / name).size) > 100


def report_data(folder: Path) -> dict[str, Any]:
    text = (folder / "report.html").read_text()
    found: dict[str, Any] = json.loads(
        text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    )
    return found


def check_report(folder: Path) -> None:
    shown = report_data(folder)
    assert [row["method"] for row in shown["tables"][0]["rows"]] == [*MAPS, "random", "chance"]
    keys = {column["key"] for column in shown["columns"]}
    assert shown["tables"][0]["rows"][0]["figures"].keys() == keys
    assert not any(key.startswith("colour") for key in shown["tables"][0]["rows"][2]["figures"])
    assert len(shown["charts"]) == 6 and [c["method"] for c in shown["charts"][0]["curves"]] == [*MAPS, "random"]
    assert len(shown["gallery"]) == 3 and shown["kind"] == "captions"
    for sample in shown["gallery"]:
        assert sample["explanations"].keys() == {*METHODS, "truth"} and isinstance(sample["right"], bool)
        for found in sample["explanations"].values():
            assert len(found["steps"]) == len(found["words"]) > 3
            assert " ".join(word for word, _ in found["words"]).replace(" ,", ",").startswith(sample["question"][:5])


def test_a_caption_explained_by_hand() -> None:
    """ "red blue star", whose star is of two pieces, on four patches; the class token's score counts nowhere.

    No step reads the last piece; of "star" it reads the first, so the whole has 0.25 * 4 on "star" by its last step.
    """
    image = torch.tensor([[9.0, 1, 0, 0, 0], [9, 0, 2, 0, 0], [9, 0, 0, 4, 0], [9, 0, 0, 0, 8]])
    text = torch.tensor([[7.0, 0, 0, 0], [7, 1, 0, 0], [7, 2, 3, 0], [7, 1, 1, 4]])
    mask = {"image": torch.ones(4, 5, dtype=torch.bool), "text": torch.ones(4, 4, dtype=torch.bool).tril()}
    special = {"image": torch.arange(5).expand(4, 5) == 0, "text": torch.arange(4).expand(4, 4) == 0}
    steps = Relevance({"image": image, "text": text}, mask, special, {"image": GRID}, "wra", {}, None)
    steps = steps.with_words([["<start>", "red ", "blue ", "st"]] * 4)
    weights = (torch.full((4,), 0.25, dtype=torch.float64),)
    found = page.explanations(
        {"wra": CaptionRelevance(steps, (("red ", "blue ", "st", "ar "),), weights)}, 0, None, GRID
    )
    assert found.keys() == {"wra"}
    assert found["wra"].patches == ((0.25, 0.5), (1.0, 2.0))
    assert found["wra"].words == (("red", 1.0), ("blue", 1.0), ("star", 1.0))
    red, blue, star = found["wra"].steps
    assert red.patches == ((1.0, 0.0), (0.0, 0.0)) and red.scores == (0.0, 0.0, 0.0)
    assert blue.scores == (1.0, 0.0, 0.0)
    assert star.patches == ((0.0, 0.0), (2.0, 4.0)) and star.scores == (1.5, 2.0, 2.0), "the mean of both pieces"
    assert page.from_plain(json.loads(json.dumps(asdict(found["wra"])))) == found["wra"]


def test_the_truth_of_each_word() -> None:
    """A red square on the left, a blue star on the right: "red" and "square" name the one, "star" the other, "a" none."""
    scene = Scene(
        (
            Thing("square", "red", "large", 32, 64, 28, 0.0, (255, 0, 0)),
            Thing("star", "blue", "large", 96, 64, 28, 0.0, (0, 0, 255)),
        ),
        "plain", ((0, 0, 0), (0, 0, 0)), False, 0,
    )  # fmt: skip
    words = ("a ", "red ", "square ", "star ")
    steps = Relevance(
        {"image": torch.ones(4, 5), "text": torch.zeros(4, 4)},
        {"image": torch.ones(4, 5, dtype=torch.bool), "text": torch.ones(4, 4, dtype=torch.bool).tril()},
        {"image": torch.arange(5).expand(4, 5) == 0, "text": torch.arange(4).expand(4, 4) == 0},
        {"image": GRID}, "wra", {}, None,
    ).with_words([["<start>", *words[:3]]] * 4)  # fmt: skip
    found = CaptionRelevance(steps, (words,), (torch.full((4,), 0.25),))
    truth = page.explanations({"wra": found}, 0, scene, GRID)["truth"]
    assert truth.words == (("a", 0.0), ("red", 1.0), ("square", 1.0), ("star", 1.0))
    left = [[row[0] > 0 for row in step.patches] for step in truth.steps]
    right = [[row[1] > 0 for row in step.patches] for step in truth.steps]
    assert left == [[False] * 2, [True] * 2, [True] * 2, [False] * 2]
    assert right == [[False] * 2, [False] * 2, [False] * 2, [True] * 2]
    assert np.array(truth.patches).min() > 0


def test_samples_know_whether_a_caption_is_true(captioner: CLIPMapper, plan: Plan) -> None:
    given = plan.captioned.references[1][0]

    def shown(captioned: Captioned, text: str) -> Sample:
        return page.sample(captioned, 1, text, {}, captioned_clip)

    captioned_clip = captioner.clip
    assert shown(plan.captioned, given).right is True
    assert shown(plan.captioned, "nine objects").right is False
    assert shown(replace(plan.captioned, scenes=None), given).right is None
    assert shown(plan.captioned, given).answer == given and shown(plan.captioned, given).window == (0, 0, 1, 1)


def test_parts_come_back() -> None:
    words = {"kind": ["colour"], "image_id": [3]}
    curves = {"CIDEr": torch.rand(2, 2, 1, 3)}
    measured = Measured(words, np.array([[[0.1], [np.nan]]]), np.zeros((3, 2, 0)), 4, curves)
    back = parts.from_plain(json.loads(json.dumps(parts.plain(measured))))
    assert back.in_words is not None and back.in_whole is not None and measured.in_words is not None
    assert np.array_equal(back.in_words, measured.in_words, equal_nan=True) and back.in_whole.shape == (3, 2, 0)
    assert back.words == words and back.unnamed == 4 and torch.equal(back.curves["CIDEr"], curves["CIDEr"])
    assert parts.from_plain(parts.plain(Measured({}, None, None, 0, {}))).in_words is None


def test_maps_that_are_compared() -> None:
    assert wholes_of(["rollout", "wra"], [AVERAGE, "cider"]) == [
        ("rollout", AVERAGE),
        ("wra", AVERAGE),
        ("wra", "cider"),
    ]
    assert wholes_of(["rollout"], [AVERAGE]) == [("rollout", AVERAGE)]
    known = {"words": {"shape": {"mass": {"wra": {"mean": 0.1}, "rollout": {"mean": 0.2}, RANDOM: {"mean": 0.9}}}}}
    assert best_of(known, METHODS) == "rollout" and best_of({}, METHODS) == "wra"


def test_examples_are_from_all_over() -> None:
    assert spread({5: "", 3: ""}) == [3, 5]
    assert spread(range(23)) == list(range(0, 23, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--explainers=wrra"], "unknown explainer 'wrra'"),
        (["--explainers=wra", "--samples=1"], "--samples is 1"),
    ],
)
def test_bad_options_are_said_first(options: list[str], message: str, shapes_root: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint=shapes-b-caption", f"--data.root={shapes_root}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(parse_evaluation([*arguments, *options], tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_evaluate_compares_explainers_of_captions(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint=shapes-b-caption", f"--data.root={shapes_root}", f"--output={tmp_path}"]
    options = ["--explainers=wra", "--samples=2", "--protocol=wra", "--trainer.accelerator=cpu", "--data.workers=0"]
    evaluation.evaluate(parse_evaluation([*arguments, f"--data.cache={tmp_path / 'features'}", *options], tmp_path))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 9 and metrics["explainers"]["images"] == 2
    assert "removing patches: RefCLIPScore" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file() and (tmp_path / "examples.png").is_file()
