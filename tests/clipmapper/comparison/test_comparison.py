"""The comparison of explainers: what it writes, what a failing method costs, and that a killed run gives the same table."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from clipmapper.comparison import measure as measure_module
from clipmapper.comparison import run
from clipmapper.comparison import sanity as sanity_module
from clipmapper.comparison import summary as summary_module
from clipmapper.comparison.explained import METHODS, RANDOM, ask, chosen, explain_all
from clipmapper.comparison.measure import Measured, joined, measure, perturbed, truth_of
from clipmapper.comparison.run import Compared, Plan, compare
from clipmapper.comparison.summary import INVERTED, report, strata, summary, values, with_inverted
from clipmapper.config import DataConfig, ModelConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.records import load_split
from clipmapper.data.vqa import Questions
from clipmapper.explain.models import base
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import World
from xai.explain import METHODS as ALL
from xai.explainers.states import along, embedding
from xai.metrics import statistics
from xai.metrics.protocols import SCHEDULES, area
from xai.recording.recording import Recording, Score

FEW = ("wra", "rollout", "transatt")
ROWS = [0, 4, 9, 20]


@pytest.fixture(scope="module")
def model(shapes_root: Path) -> CLIPMapper:
    """Untrained, with a liking for the right answer of the first question."""
    right = load_split(DataConfig(root=shapes_root), "val", AnswerVocabulary(("yes",)))[0]["answer"]
    torch.manual_seed(0)
    config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", width=16, heads=2, layers=1, mapper="b")
    made = CLIPMapper(config, sorted(set(right))).eval()
    torch.nn.init.normal_(made.head[4].weight, std=0.5)
    made.head[4].bias.data[made.answers.index(right[0])] += 2
    return made


@pytest.fixture(scope="module")
def questions(model: CLIPMapper, shapes_root: Path) -> Questions:
    records, root = load_split(DataConfig(root=shapes_root), "val", AnswerVocabulary(tuple(model.answers)))
    return Questions(records, root, len(model.answers), model.clip)


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BATCH", 2)
        patch.setattr(run, "FEW", 1)
        patch.setattr(sanity_module, "DRAWS", 2)
        patch.setattr(summary_module, "CURVE_RESAMPLES", 100)
        for name in ("mean_interval", "compare"):
            patch.setattr(summary_module, name, partial(getattr(statistics, name), resamples=500))
        patch.setattr(measure_module, "RANDOM_SEEDS", range(2))
        yield


@pytest.fixture(scope="module")
def plan(questions: Questions, shapes_root: Path) -> Plan:
    return Plan(questions, ROWS, FEW, "wra", shapes_root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(model: CLIPMapper, plan: Plan, folder: Path, small: None) -> Compared:
    """Treat it as read-only."""
    return compare(model, plan, folder)


@pytest.fixture(scope="module")
def measured(model: CLIPMapper, questions: Questions, shapes_root: Path, small: None) -> Measured:
    """All questions in one batch."""
    return measure(model, explain_all(model, ask(model, questions, ROWS), FEW), "wra", truth_of(shapes_root))


def broken(recording: Recording, target: Score) -> Tensor:
    raise RuntimeError("no such thing")


def undefined(recording: Recording, target: Score) -> Tensor:
    """NaN for the first sample of a batch."""
    scores = torch.rand(recording.mask.shape)
    scores[0] = torch.nan
    return scores


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (broken, undefined):
        monkeypatch.setitem(ALL, method.__name__, method)


def figures(compared: Compared, method: str) -> dict[str, Any]:
    return compared.metrics["methods"][method]["figures"]


def test_names() -> None:
    assert chosen("all") == METHODS and RANDOM not in METHODS and {"wra", "transatt"} <= set(METHODS)
    assert chosen("wra, rollout,wra,random") == ("wra", "rollout")
    with pytest.raises(ValueError, match="unknown explainer 'wraa'; did you mean 'wra'"):
        chosen(["wraa"])


def test_figures_do_not_depend_on_the_batch(
    model: CLIPMapper, questions: Questions, shapes_root: Path, measured: Measured
) -> None:
    truth = truth_of(shapes_root)
    singly = joined([measure(model, explain_all(model, ask(model, questions, [r]), FEW), "wra", truth) for r in ROWS])
    assert measured.records == singly.records and measured.methods == (*FEW, RANDOM)
    for key, curves in measured.curves.items():
        np.testing.assert_allclose(curves, singly.curves[key], atol=1e-5, err_msg=key)
    truths = {f"truth/{modality}_{kind}" for modality in ("image", "text") for kind in ("mass", "rank")}
    assert set(measured.figures) == {"image_share", *truths}
    for key, by_method in measured.figures.items():
        np.testing.assert_allclose(by_method, singly.figures[key], atol=1e-5, err_msg=key)


def test_curves_start_at_the_models_own_answer(model: CLIPMapper, questions: Questions, measured: Measured) -> None:
    inputs = ask(model, questions, ROWS).inputs
    with torch.no_grad():
        logits = model(model.clip.image_tokens(inputs.pixels), inputs.ids, inputs.mask)
    own = logits.sigmoid().amax(1).numpy()
    assert [model.answers[label] for label in logits.argmax(1)] == measured.records["predicted"]
    assert {0.0, 1.0} <= set(measured.records["accuracy"]), "some are right, some wrong"
    for modality in ("image", "text"):
        for figure, expected in (("probability", own), ("accuracy", measured.records["accuracy"])):
            start = measured.curves[f"{modality}/{figure}"][..., 0]
            np.testing.assert_allclose(start, np.broadcast_to(expected, start.shape), atol=1e-5)


def test_scores_are_those_of_the_questions_answers(model: CLIPMapper, questions: Questions) -> None:
    asked, batch = ask(model, questions, ROWS), questions[ROWS]
    torch.testing.assert_close(asked.inputs.scores, batch["scores"])
    assert asked.inputs.ids.equal(batch["ids"]) and asked.inputs.pixels.equal(batch["image"])


def test_what_is_written(whole: Compared, folder: Path) -> None:
    assert json.loads(json.dumps(whole.metrics, allow_nan=False)) == whole.metrics
    samples = pq.read_table(folder / "samples.parquet").to_pylist()
    assert len(samples) == len(ROWS) * (len(FEW) + 1)
    for entry in samples:  # areas follow from the curves
        for key in ("image/accuracy/positive", "text/probability/negative"):
            expected = area(torch.tensor(entry[f"curve/{key}"]), SCHEDULES["wra"])
            assert entry[f"area/{key}"] == pytest.approx(float(expected), abs=1e-6)
    mean = np.mean([e["area/image/probability/srg"] for e in samples if e["method"] == "wra"])
    assert figures(whole, "wra")["image/probability/srg"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert (folder / "curves.png").stat().st_size > 10_000
    assert "wra" in (folder / "report.html").read_text()
    printed = report(whole.metrics)
    assert all(name in printed for name in FEW) and "rollout*" in printed and "wra*" not in printed
    costs = {name: whole.metrics["methods"][name]["cost"] for name in FEW}
    assert [costs[name]["forward"] for name in FEW] == [1, 1, 1]
    assert [costs[name]["backward"] for name in FEW] == [1, 0, 2], "rollout needs no gradient; TransAtt relevance too"
    assert all(cost["seconds"] > 0 and cost["megabytes"] > 0.5 for cost in costs.values())


def test_the_report_holds_the_same_table_and_every_explanation(model: CLIPMapper, plan: Plan, whole: Compared) -> None:
    shown = whole.report
    assert shown.tables[0].stratum == "all" and shown.tables[0].samples == len(ROWS)
    rows = {row.method: row for row in shown.tables[0].rows}
    assert rows["rollout"].class_agnostic and not rows["wra"].class_agnostic
    assert rows["wra"].figures["text/accuracy/srg"].mean == figures(whole, "wra")["text/accuracy/srg"]["mean"]
    assert {column.key for column in shown.columns} == rows["wra"].figures.keys()
    assert rows["wra"].figures["sanity/clip"].mean == whole.metrics["methods"]["wra"]["sanity"]["clip"]["mean"]
    assert "sanity/clip" not in rows[RANDOM].figures
    beside = {row.method: row.figures for row in shown.further[0].table.rows}
    assert beside.keys() == {"transatt", "rollout"}, "of FEW those that GenAtt has too"
    assert beside["rollout"]["text/accuracy/negative/published"].mean == 32.05
    assert rows[RANDOM].kind == "floor" and rows["wra"].kind == "explainer"
    assert len(shown.charts) == 8 and len(shown.gallery) == len(ROWS)
    explained, truth = explain_all(model, ask(model, plan.questions, ROWS[:2]), FEW), truth_of(plan.root)
    assert truth is not None
    for sample, map, words in zip(
        shown.gallery, explained.relevances["wra"].map("image"), explained.relevances["wra"].by_word(), strict=False
    ):
        kept = sample.explanations["wra"]
        torch.testing.assert_close(torch.tensor(kept.patches), map, atol=1e-6, rtol=1e-4)
        assert [word for word, _ in kept.words] == [word for word, _ in words]
        deciding = truth.region(int(sample.id), (128, 128)).reshape(8, 16, 8, 16).mean((1, 3))
        np.testing.assert_allclose(sample.explanations["truth"].patches, deciding, atol=1e-6)
        spoken = [word for word, score in sample.explanations["truth"].words if score]
        spans = [sample.question[start:stop].lower() for start, stop in truth.words(int(sample.id))]
        assert spoken == [word for span in spans for word in span.split()]
        assert sample.image.startswith(b"\x89PNG") and sample.window == (0, 0, 1, 1)


def without_cost(compared: Compared) -> dict[str, Any]:
    methods = {name: {**entry, "cost": None} for name, entry in compared.metrics["methods"].items()}
    return {**compared.metrics, "methods": methods}


def test_processes_share_the_batches_and_get_the_same_table(
    model: CLIPMapper, plan: Plan, whole: Compared, folder: Path, tmp_path: Path
) -> None:
    """Threads with models of their own stand for processes; the slow test of the whole path starts real ones."""
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda rank: compare(deepcopy(model), plan, tmp_path, World(rank, 2)), range(2)))
    assert [without_cost(one) for one in both] == [without_cost(whole)] * 2
    samples = [pq.read_table(path / "samples.parquet").to_pylist() for path in (folder, tmp_path)]
    assert str(samples[0]) == str(samples[1]), "as text, in which one NaN is like another"


def places(recording: Recording, target: Score) -> Tensor:
    """Of no model."""
    return torch.arange(recording.mask.shape[1]).expand(recording.mask.shape).float()


def embedded(recording: Recording, target: Score) -> Tensor:
    """Of what CLIP's towers take, before the mapper."""
    return along(embedding(recording), lambda event: event.Y.norm(dim=-1)).detach()


def test_sanity_shuffles_the_mapper_and_clip_apart_and_gives_both_back(
    model: CLIPMapper, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, passes = {name: value.clone() for name, value in model.state_dict().items()}, []
    for method in (broken, places, embedded):
        monkeypatch.setitem(ALL, method.__name__, method)
    recorded = sanity_module.record_once
    monkeypatch.setattr(sanity_module, "record_once", lambda *given: (passes.append(1), recorded(*given))[1])
    asked = ask(model, plan.questions, ROWS)
    found = sanity_module.sanity(model, asked, ("places", "broken", "embedded", "input_gradient"))
    assert len(passes) == 1 + 3 * 2, "the answer, then two draws of the model as it is and of each group"
    assert found["places"] == {group: pytest.approx([1.0] * len(ROWS)) for group in ("mapper", "clip")}
    assert found["broken"] == {group: [None] * len(ROWS) for group in ("mapper", "clip")}
    assert found["embedded"]["mapper"] == pytest.approx([1.0] * len(ROWS))
    assert max(found["embedded"]["clip"]) < 0.9 and max(found["input_gradient"]["mapper"]) < 0.9
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_a_killed_run_goes_on_and_gives_the_same_table(
    model: CLIPMapper, plan: Plan, whole: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def dying(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return explain_all(*arguments)

    monkeypatch.setattr(run, "explain_all", dying)
    with pytest.raises(Killed):
        compare(model, plan, tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "explainers").glob("part-*.parquet"))) == 1
    first = tmp_path / "cut" / "explainers" / "part-00000.parquet"
    first.write_bytes(first.read_bytes()[:-2000])
    (first.parent / "sanity.json").write_text('{"wra": {"mapp')
    cut = compare(model, plan, tmp_path / "cut")
    assert len(calls) == 4, "a batch, the one that died, and both again: the disk was full when the first was written"
    assert without_cost(cut) == without_cost(whole)
    compare(model, plan, tmp_path / "cut")
    assert len(calls) == 4, "all is there"
    with pytest.raises(ValueError, match="comparison with other protocol"):
        compare(model, replace(plan, protocol="genatt"), tmp_path / "cut")
    (first.parent / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json cannot be read: remove"):
        compare(model, plan, tmp_path / "cut")


def test_a_method_that_fails_is_reported_in_its_row_alone(
    model: CLIPMapper, plan: Plan, whole: Compared, tmp_path: Path, failing: None
) -> None:
    with_bad = compare(model, replace(plan, methods=("broken", *FEW, "undefined")), tmp_path / "bad")
    methods = with_bad.metrics["methods"]
    for name in (*FEW, RANDOM):
        for key, figure in figures(whole, name).items():
            assert figures(with_bad, name)[key] == pytest.approx(figure, abs=1e-5), "but for rounding in other batches"
    assert methods["broken"]["error"] == "RuntimeError: no such thing"
    assert methods["broken"]["undefined"] == len(ROWS)
    assert all(figure["mean"] is None for figure in figures(with_bad, "broken").values())
    assert methods["undefined"]["undefined"] == 2 and methods["undefined"]["error"] is None, "once a batch"
    assert figures(with_bad, "undefined")["image/accuracy/srg"]["mean"] is not None
    printed = report(with_bad.metrics)
    assert methods["broken"]["sanity"]["clip"]["mean"] is None and methods["broken"]["cost"]["seconds"] is None
    assert methods["wra"]["sanity"] == whole.metrics["methods"]["wra"]["sanity"]
    assert "no such thing" in printed and "undefined for 2" in printed


def test_questions_without_an_image_are_left_out_and_one_is_enough(
    model: CLIPMapper, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {plan.questions.source(row) for row in ROWS[:3]}
    assert plan.questions.source(ROWS[3]) not in gone

    def missing(source: Any) -> Any:
        if source in gone:
            raise BadImage(f"{source} is gone")
        return load_image(source)

    monkeypatch.setattr(base, "load_image", missing)
    found = compare(model, replace(plan, methods=("rollout",)), tmp_path)
    assert found.metrics["questions"] == 1 and [sample.id for sample in found.report.gallery]
    assert figures(found, "rollout")["text/accuracy/srg"]["mean"] is not None
    gone.add(plan.questions.source(ROWS[3]))
    with pytest.raises(ValueError, match="no image of the 4 questions can be read"):
        compare(model, replace(plan, methods=("rollout",)), tmp_path / "none")


def test_the_floor_and_the_inverse_of_the_best(measured: Measured) -> None:
    turned = with_inverted(measured, "wra")
    areas = values(turned, "wra")
    best = turned.methods.index(turned.methods[-1].removesuffix(INVERTED))
    for key in ("image/accuracy", "image/probability", "text/accuracy", "text/probability"):
        np.testing.assert_allclose(areas[f"{key}/srg"][-1], -areas[f"{key}/srg"][best], atol=1e-6)
    gains = areas["image/probability/srg"] + areas["text/probability/srg"]
    assert gains[best].mean() == gains[: len(FEW)].mean(axis=1).max()
    methods, floor = summary(turned, "wra", {})["methods"], turned.methods.index(RANDOM)
    srg = areas["image/probability/srg"]
    against = methods["wra"]["against_random"]["image/probability/srg"]
    assert against["mean"] == pytest.approx(float((srg[0] - srg[floor]).mean()), abs=1e-6)
    assert against["adjusted"] >= against["p"] and not methods[RANDOM]["against_random"]


def test_random_is_the_mean_over_seeds(
    model: CLIPMapper, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained = explain_all(model, ask(model, questions, ROWS[:1]), ())
    both = perturbed(model, explained, "wra", "text")["probability"]
    alone = []
    for seed in (0, 1):
        monkeypatch.setattr(measure_module, "RANDOM_SEEDS", [seed])
        alone.append(perturbed(model, explained, "wra", "text")["probability"])
    torch.testing.assert_close(both, torch.stack(alone).mean(0))
    assert not torch.equal(*alone)


def test_strata(measured: Measured) -> None:
    accuracy = [1.0, 0.0, 0.3, 0.0]
    types = ["yes/no", "number", "other", ""]
    found = replace(measured, records={**measured.records, "accuracy": accuracy, "answer_type": types})
    parts = {name: members.tolist() for name, members in strata(found).items()}
    assert parts["right"] == [True, False, True, False] and parts["wrong"] == [False, True, False, True]
    assert parts["other"] == [False, False, True, False] and set(parts) == {"right", "wrong", *types} - {""}
    result, areas = summary(found, "wra", {}), values(found, "wra")["text/probability/positive"]
    entry = result["strata"]["right"]
    assert entry["questions"] == 2
    mean = entry["methods"]["rollout"]["text/probability/positive"]["mean"]
    assert mean == pytest.approx(areas[FEW.index("rollout"), [0, 2]].mean(), abs=1e-6)
