import json
from dataclasses import replace

import pytest
import torch

from xai.metrics.protocols import PROTOCOLS, SCHEDULES, Protocol, area, kept_counts, named


def test_schedules_of_the_papers() -> None:
    assert [round(100 * share) for share in SCHEDULES["wra"]] == [0, 5, 10, 15, 20, 25, 50, 75, 100]
    assert [round(100 * share) for share in SCHEDULES["genatt"]] == [0, 25, 50, 75, 80, 85, 90, 95, 100]
    assert [round(100 * share) for share in SCHEDULES["transatt"]] == [10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_the_recommended_grid_treats_both_directions_alike_and_holds_both_papers() -> None:
    shares = named("recommended", "image").shares
    assert [1 - share for share in reversed(shares)] == pytest.approx(shares)
    assert set(shares) == set(SCHEDULES["wra"]) | set(SCHEDULES["genatt"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_kept_counts_are_those_of_the_published_expression(schedule: str) -> None:
    counts = torch.arange(300)
    expected = [[int((1 - share) * n) for share in SCHEDULES[schedule]] for n in range(300)]
    assert kept_counts(counts, SCHEDULES[schedule]).tolist() == expected


def test_area() -> None:
    assert area(torch.ones(3, 9), SCHEDULES["transatt"]).tolist() == pytest.approx([1.0] * 3)
    falling = 1 - torch.tensor(SCHEDULES["wra"])
    assert float(area(falling, SCHEDULES["wra"])) == pytest.approx(0.5)
    assert float(area(torch.tensor([1.0, 0.0, 0.0]), (0.0, 0.2, 1.0))) == pytest.approx(0.1)
    assert float(area(torch.tensor([1.0, 0.0]), (0.1, 0.9))) == pytest.approx(0.5)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_figures_record_says_all(name: str) -> None:
    protocol = named(name, "text")
    record = json.loads(json.dumps(replace(protocol, direction="positive").record()))
    assert record["direction"] == "positive" and record["modality"] == "text"
    assert record["shares"] == list(protocol.shares)
    assert record["removal"] == ("zero" if name == "transatt" else "drop")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"'mine'; known: wra, genatt"):
        named("mine", "image")
    with pytest.raises(ValueError, match=r"'mine'; known: wra, genatt"):
        Protocol("mine", "drop", "image")
