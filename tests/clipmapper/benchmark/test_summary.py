"""Means, areas, tests and strata of values known by hand."""

from typing import Any

import numpy as np
import pytest

from clipmapper.benchmark import published, table
from clipmapper.benchmark.published import Published
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.store import Results
from clipmapper.benchmark.summary import numbers, strata, summarise, with_inverted
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.explain.models.base import Explainable

SHARES = 9
CONFIG = BenchmarkConfig(protocol="transatt", resamples=500)


class Planted(AnswersTask):
    """Of answers, without a model."""

    def __init__(self) -> None:
        self.config, self.order = CONFIG, ("image/probability/srg", "text/probability/srg")
        self.model = Explainable()  # type: ignore[assignment]
        self.strata, self.facts, self.published = ("answer_type",), {}, published.ANSWERS


def results(good: float = 0.8) -> Results:
    """40 samples; curves of genatt fall at once and last long, those of rollout are random ones."""
    flat = np.full((40, SHARES), 0.5)
    curves = {}
    for modality in ("image", "text"):
        for figure in ("probability", "accuracy"):
            curves[f"{modality}/{figure}/positive"] = np.stack([flat - 0.3, flat, flat])
            curves[f"{modality}/{figure}/negative"] = np.stack([np.full((40, SHARES), good), flat, flat])
    mass = np.tile(np.array([[0.6], [np.nan], [0.1]]), (1, 40))
    mass[0, :10] = np.nan
    samples: dict[str, Any] = {"sample": list(range(40)), "right": [i % 2 == 0 for i in range(40)]}
    samples |= {"answer_type": ["number"] * 30 + ["other"] * 10, "accuracy": [float(i % 2 == 0) for i in range(40)]}
    return Results(("genatt", "rollout", "random"), samples, {**curves, "image/mass": mass}, {})


def test_areas_and_gains_by_hand() -> None:
    values = numbers(results(), Planted())
    assert values["image/probability/positive"][:, 0].tolist() == pytest.approx([0.2, 0.5, 0.5])
    assert values["image/probability/srg"][:, 0].tolist() == pytest.approx([0.6, 0, 0]), "0.8 - 0.2"
    assert values["image/mass"] is results().values["image/mass"] or values["image/mass"].shape == (3, 40)


def test_the_best_method_turned_around_loses_what_it_won() -> None:
    task = Planted()
    turned = with_inverted(task, results())
    assert turned.rows[-1] == "genatt inverted"
    values = numbers(turned, task)
    assert values["image/probability/srg"][-1, 0] == pytest.approx(-0.6)
    assert np.isnan(values["image/mass"][-1]).all()


def test_the_summary() -> None:
    task = Planted()
    metrics = summarise(task, results(), CONFIG, {"genatt": {"seconds": 0.5}}, {"genatt": {"mapper": [0.2, None, 0.4]}})
    assert list(metrics["methods"]) == ["genatt", "rollout", "random"] and metrics["samples"] == 40
    entry = metrics["methods"]["genatt"]
    mass = entry["metrics"]["image/mass"]
    assert mass["mean"] == pytest.approx(0.6) and mass["samples"] == 30, "ten have no ground truth"
    gain = entry["against_random"]["image/probability/srg"]
    assert gain["mean"] == pytest.approx(0.6) and gain["adjusted"] < 0.01
    assert metrics["methods"]["rollout"]["against_random"]["image/probability/srg"]["adjusted"] == 1
    assert metrics["methods"]["rollout"]["metrics"]["image/mass"]["mean"] is None, "JSON knows no NaN"
    assert entry["sanity"]["mapper"]["mean"] == pytest.approx(0.3) and entry["cost"]["seconds"] == 0.5
    assert metrics["methods"]["rollout"]["class_agnostic"] and not entry["class_agnostic"]
    assert {name: part["samples"] for name, part in metrics["strata"].items()} == {
        "right": 20, "wrong": 20, "number": 30, "other": 10,
    }  # fmt: skip
    printed = table.text(task, metrics)
    assert "60.0 [60.0, 60.0]" in printed and "rollout*" in printed and "mapper~" in printed
    assert printed.index("genatt") < printed.index("rollout")


def test_strata_without_right_and_wrong() -> None:
    values = results()
    values.samples["right"] = [None] * 40
    assert set(strata(Planted(), values)) == {"number", "other"}


def test_a_corpus_metric_has_its_interval_and_its_test() -> None:
    class Corpus(Planted):
        def corpus(self, values: Any, details: Any, rows: Any, config: Any) -> dict[str, np.ndarray]:
            spread = np.linspace(-0.1, 0.1, 200)
            return {"ap": np.stack([np.r_[0.9, 0.9 + spread], np.r_[0.5, 0.5 + spread], np.r_[0.5, 0.5 + spread]])}

    metrics = summarise(Corpus(), results(), CONFIG, {}, {})["methods"]
    ap = metrics["genatt"]["metrics"]["ap"]
    assert ap["mean"] == 0.9 and ap["low"] == pytest.approx(0.805) and ap["high"] == pytest.approx(0.995)
    assert metrics["genatt"]["against_random"]["ap"]["p"] < 0.05 < metrics["rollout"]["against_random"]["ap"]["p"]


def test_orders_beside_the_published_one() -> None:
    paper = Published(
        "a paper", {"x": "higher", "y": "lower"}, {"wra": (3.0, 1.0), "genatt": (2.0, 2.0), "rollout": (1.0,)}
    )
    ours = {
        name: {"metrics": {"x": {"mean": x}, "y": {"mean": x}}}
        for name, x in (("wra", 0.1), ("genatt", 0.1), ("rollout", 0.3))
    }
    beside = published.beside(paper, ours)
    assert beside["metrics"]["x"]["methods"]["wra"] == {
        "ours": 10,
        "published": 3,
        "our_rank": 2.5,
        "published_rank": 1,
    }
    assert beside["metrics"]["x"]["methods"]["rollout"]["our_rank"] == 1 and set(beside["metrics"]["y"]["methods"]) == {
        "wra",
        "genatt",
    }
    assert beside["metrics"]["x"]["spearman"] == pytest.approx(-0.866, abs=1e-3)
    assert "x -0.87" in published.text(beside)
    assert published.beside(None, ours) == published.beside(paper, {"wra": ours["wra"]}) == {}


def test_published_rows_are_of_methods_that_exist() -> None:
    from xai.explainers import METHODS

    for paper in (published.ANSWERS, published.CLASSES, published.SEGMENTATION, published.DETECTION):
        assert set(paper.rows) <= set(METHODS)
        assert max(map(len, paper.rows.values())) == len(paper.metrics)
