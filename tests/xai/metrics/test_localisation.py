import pytest
import torch
from torch import Tensor

from xai.metrics.localisation import (
    average_precision,
    chance,
    mass_accuracy,
    modality_share,
    patch_shares,
    rank_accuracy,
)

FIGURES = [mass_accuracy, rank_accuracy, average_precision]
RELEVANCE = torch.tensor([[4.0, 1.0, 3.0, -5.0], [1.0, 2.0, 3.0, 4.0]])
TRUTH = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


def test_figures_worked_out_by_hand() -> None:
    assert mass_accuracy(RELEVANCE, TRUTH).tolist() == pytest.approx([5 / 8, 3 / 10])
    assert rank_accuracy(RELEVANCE, TRUTH).tolist() == [0.5, 0.0]
    assert average_precision(RELEVANCE, TRUTH).tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert chance(TRUTH).tolist() == [0.5, 0.25]


def test_grids_are_tokens_in_a_square_and_methods_an_axis_in_front() -> None:
    for figure in FIGURES:
        grid = figure(RELEVANCE.reshape(2, 2, 2), TRUTH.reshape(2, 2, 2))
        assert torch.equal(grid, figure(RELEVANCE, TRUTH))
        both = figure(torch.stack([RELEVANCE, RELEVANCE.flip(1)]), TRUTH)
        assert torch.equal(both[0], grid) and torch.equal(both[1], figure(RELEVANCE.flip(1), TRUTH))


@pytest.mark.parametrize("figure", FIGURES)
def test_equal_relevance_scores_chance(figure: object) -> None:
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert figure(torch.ones(2, 4), TRUTH, valid).tolist() == pytest.approx(chance(TRUTH, valid).tolist())  # type: ignore[operator]


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_not_valid_counts_for_nothing(figure: object) -> None:
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    padded = RELEVANCE.clone()
    padded[0, 3] = torch.inf
    truth = TRUTH.clone()
    truth[0, 3] = 1.0
    expected = figure(RELEVANCE[:1, :3], TRUTH[:1, :3])  # type: ignore[operator]
    assert torch.equal(figure(padded, truth, valid)[:1], expected)  # type: ignore[operator]
    assert chance(truth, valid)[0] == pytest.approx(2 / 3)


def test_the_truth_itself_is_best_and_its_inverse_worst() -> None:
    assert mass_accuracy(TRUTH, TRUTH).tolist() == rank_accuracy(TRUTH, TRUTH).tolist() == [1.0, 1.0]
    inverse = 1 - TRUTH
    assert mass_accuracy(inverse, TRUTH).tolist() == rank_accuracy(inverse, TRUTH).tolist() == [0.0, 0.0]


def test_soft_truth_counts_by_area() -> None:
    truth = torch.tensor([[1.0, 0.5, 0.0]])
    relevance = torch.tensor([[3.0, 2.0, 1.0]])
    assert mass_accuracy(relevance, truth).tolist() == pytest.approx([4 / 6])
    assert rank_accuracy(relevance, truth).tolist() == pytest.approx([1.25 / 1.5])


def test_undefined_samples_are_nan_and_leave_the_others_alone() -> None:
    relevance = torch.tensor([[1.0, torch.nan], [1.0, 1.0], [-1.0, -2.0], [3.0, 1.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert mass_accuracy(relevance, truth).isnan().tolist() == [True, True, True, False]
    assert rank_accuracy(relevance, truth).isnan().tolist() == [True, True, False, False]
    assert rank_accuracy(relevance, truth)[2:].tolist() == [1.0, 1.0]
    assert mass_accuracy(relevance, truth)[3] == 0.75


def test_half_precision_does_not_round_the_sums() -> None:
    relevance = torch.ones(1, 5000, dtype=torch.float16)
    truth = (torch.arange(5000) < 2500)[None].float()
    assert mass_accuracy(relevance, truth).tolist() == [0.5]


def test_patch_shares() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, :2, :3] = True
    mask[0, 2, 0] = True
    assert patch_shares(mask, (2, 3)).tolist() == [[[1.0, 0.5, 0.0], [0.25, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patch_shares(torch.zeros(1, 5, 4), (2, 2)), "5 x 4 pixels"),
        (lambda: mass_accuracy(torch.zeros(2, 3), torch.zeros(2, 4)), r"relevance \[2, 3\], truth \[2, 4\]"),
        (lambda: mass_accuracy(torch.zeros(3), torch.zeros(3)), r"\[B, \*grid\]"),
        (lambda: rank_accuracy(torch.zeros(1, 2), torch.tensor([[0.0, 255.0]])), "0.0 to 255.0"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_modality_shares() -> None:
    image, text = torch.tensor([[3.0, -1.0], [-1.0, -1.0]]), torch.tensor([[0.5, 0.5, 8.0], [0.0, 0.0, 8.0]])
    mask: dict[str, Tensor] = {"image": image > -9, "text": torch.tensor([[True, True, False]] * 2)}
    shares = modality_share({"image": image, "text": text}, mask)
    assert shares["image"][0] == 0.75 and shares["text"][0] == 0.25
    assert shares["image"][1].isnan() and shares["text"][1].isnan()
