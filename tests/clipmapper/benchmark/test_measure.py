"""Scores of planted maps, worked out by hand."""

import pytest
import torch
from torch import Tensor

from clipmapper.benchmark.measure import by_sample, location, removal, score, share_of
from clipmapper.benchmark.task import Maps
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Protocol

VALID = torch.tensor([[False, True, True, True, True]])


def test_relevance_on_the_ground_truth() -> None:
    truth = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[[9.0, 3.0, 1.0, 0.0, -5.0]], [[9.0, 0.0, 1.0, 1.0, 2.0]]])
    found = location(truth, VALID)(scores)
    assert found["mass"][:, 0].tolist() == [0.75, 0.0] and found["rank"][:, 0].tolist() == [1.0, 0.0]
    assert found["no_positive"][:, 0].tolist() == [0.0, 0.0]


def test_a_map_without_positive_relevance_counts_as_chance_and_is_counted() -> None:
    truth = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    found = location(truth, VALID)(torch.tensor([[[7.0, -1.0, -2.0, 0.0, -3.0]], [[1.0, 2.0, 2.0, 2.0, 2.0]]]))
    assert found["mass"][:, 0].tolist() == [0.25, 0.25], "a quarter of the tokens is right"
    assert found["no_positive"][:, 0].tolist() == [1.0, 0.0]


def test_neither_a_failed_method_nor_a_sample_without_ground_truth_is_counted() -> None:
    scores = torch.tensor([[[1.0, torch.nan, 1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    found = location(torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]]), VALID)(scores)
    assert found["mass"][0].isnan() and found["no_positive"][0].isnan() and found["no_positive"][1] == 1
    nowhere = location(torch.zeros(1, 5), VALID)(scores)
    assert all(values.isnan().all() for values in nowhere.values())


def test_the_share_of_a_modality() -> None:
    scores = torch.tensor([[[1.0, 2.0, -9.0, 1.0]], [[-1.0, 0.0, 0.0, -1.0]]])
    valid = torch.tensor([[True, True, True, False]])
    found = share_of(slice(0, 1), valid, "image_share")(scores)["image_share"]
    assert found[0].item() == pytest.approx(1 / 3) and found[1].isnan(), "padding and negative scores do not count"


def test_removal_by_hand() -> None:
    """The output is whether token 1 is there: it goes first, or last, of 4."""

    def predict(part: Perturbed) -> dict[str, Tensor]:
        return {"there": part.keep[:, 1].float()}

    protocol = Protocol("transatt", "drop", "image")  # 3, 3, 2, 2, 2, 1, 1, 0, 0 of 4 are left
    scores = torch.tensor([[[0.0, 9.0, 1.0, 2.0, 3.0]]])
    curves = removal(predict, protocol, VALID, None, torch.tensor([5]), None)(scores)
    assert curves["there/positive"][0, 0].tolist() == [0.0] * 9
    assert curves["there/negative"][0, 0].tolist() == [1.0] * 7 + [0.0] * 2


def test_maps_of_one_sample_are_averaged_and_random_ones_come_last() -> None:
    maps = Maps(
        torch.tensor([[[1.0], [3.0], [torch.nan]]]),
        torch.arange(3),
        [lambda s: {"value": s[..., 0]}],
        torch.tensor([0, 0, 2]),
    )
    values = score(maps, samples=4, random_seeds=3)["value"]
    assert values.shape == (2, 4) and values[0, 0] == 2 and values[0, 1:].isnan().all()
    assert 0 < values[1, 0] < 1 and values[1, 1].isnan() and 0 < values[1, 2] < 1


def test_curves_are_averaged_step_by_step() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, torch.nan]]])
    assert by_sample(values, torch.tensor([0, 0]), 1).tolist() == [[[2.0, 2.0]]]
