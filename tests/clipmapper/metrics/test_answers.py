"""Soft accuracy by hand, over several batches."""

import pytest
import torch

from clipmapper.metrics.answers import VQAAccuracy, soft_accuracy

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0], [-3.0, -2.0, -1.0], [1.0, 0.0, 0.0]])
SCORES = torch.tensor([[0.3, 1.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.6], [0.0, 0.0, 0.0]])
TYPES = torch.tensor([0, 2, 2, 3])  # yes/no, other, other, unknown


def test_score_of_the_likeliest_answer() -> None:
    assert soft_accuracy(LOGITS, SCORES).tolist() == pytest.approx([0.3, 0.9, 0.6, 0.0])


def test_mean_over_questions_overall_and_by_type() -> None:
    metric = VQAAccuracy()
    for rows in (slice(0, 3), slice(3, 4)):  # batches of unequal size weigh by their questions
        metric.update(LOGITS[rows], SCORES[rows], TYPES[rows])
    means = {name: value.item() for name, value in metric.compute().items()}
    assert means == pytest.approx({"overall": 45.0, "yes/no": 30.0, "other": 75.0})


def test_reset_forgets() -> None:
    metric = VQAAccuracy()
    metric.update(LOGITS, SCORES, TYPES)
    metric.reset()
    metric.update(LOGITS[1:2], SCORES[1:2], TYPES[1:2])
    assert metric.compute()["overall"].item() == pytest.approx(90.0)


def test_a_third_of_a_million_questions_add_up_exactly() -> None:
    metric = VQAAccuracy()
    for _ in range(330):
        metric.update(torch.ones(1000, 1), torch.full((1000, 1), 0.3), torch.zeros(1000, dtype=torch.long))
    assert metric.compute()["overall"].item() == pytest.approx(30.0, abs=1e-5)
