import pytest
import torch

from xai.metrics.localisation import average_precision
from xai.metrics.segmentation import segmentation_scores, segmentation_summary

MASK = torch.tensor([[[True, True, False, False], [True, False, False, False]]])


def test_figures_by_hand() -> None:
    heat = torch.tensor([[[8.0, 0.0, 4.0, 0.0], [8.0, 0.0, 0.0, 0.0]]])  # mean 2.5: three pixels are foreground
    found = segmentation_scores(heat, MASK)
    assert found.correct.tolist() == [6.0] and found.labelled.tolist() == [8.0]
    assert found.intersection.tolist() == [[4.0, 2.0]] and found.union.tolist() == [[6.0, 4.0]]
    # 1, 1 (foreground, right); 1 four times right, once wrong (background); 0.5 right, 0.5 wrong; then 0
    assert found.average_precision.tolist() == pytest.approx([(6 * 6 / 7 + 7 / 9 + 8 / 16) / 8])
    summary = segmentation_summary(found)
    assert summary["pixel_accuracy"] == 0.75 and summary["miou"] == pytest.approx((4 / 6 + 2 / 4) / 2)


def test_the_mask_itself_is_perfect_and_its_inverse_wrong() -> None:
    best, worst = (segmentation_summary(segmentation_scores(heat, MASK)) for heat in (MASK.float(), -3.0 * MASK))
    assert [float(best[name]) for name in ("pixel_accuracy", "miou", "map")] == [1, 1, 1]
    assert [float(worst[name]) for name in ("pixel_accuracy", "miou")] == [0, 0] and worst["map"] == 0.5


def test_a_map_of_one_value_is_background_and_ranks_nothing() -> None:
    found = segmentation_scores(torch.full((1, 2, 4), 0.3), MASK)
    assert found.correct.tolist() == [5.0] and found.average_precision.tolist() == [0.5]


def test_small_maps_are_enlarged_to_the_mask() -> None:
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :16, :16] = True
    found = segmentation_summary(segmentation_scores(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), mask))
    assert found["pixel_accuracy"] > 0.8 and found["map"] > 0.9


def test_unlabelled_pixels_count_nowhere() -> None:
    heat, valid = torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(0)), torch.ones_like(MASK)
    valid[0, 0, 1] = valid[0, 1, 3] = False
    found, flipped = (segmentation_scores(heat, mask, valid) for mask in (MASK, MASK ^ ~valid))
    assert found.labelled.tolist() == [6.0]
    assert all(torch.equal(a, b) for a, b in zip(found, flipped, strict=True))


def test_methods_are_an_axis_and_an_undefined_map_is_counted_in_its_row_alone() -> None:
    heat = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    masks = MASK.expand(3, 2, 4)
    clean = segmentation_summary(segmentation_scores(heat[0], masks))
    heat[1, 2, 0, 0] = torch.nan
    found = segmentation_summary(segmentation_scores(heat, masks))
    assert found["undefined"].tolist() == [0, 1]
    rest = segmentation_summary(segmentation_scores(heat[1, :2], masks[:2]))
    for name in ("pixel_accuracy", "miou", "map"):
        assert found[name].tolist() == pytest.approx([float(clean[name]), float(rest[name])])


def test_average_precision_needs_a_positive_label() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert average_precision(torch.rand(1, 3), nothing, ~nothing).isnan().all()


def test_images_that_count_twice_are_as_if_they_were_there_twice() -> None:
    heat, masks = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(2)), MASK.expand(3, 2, 4)
    counts = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    found = segmentation_summary(segmentation_scores(heat, masks), counts)
    for i, rows in enumerate(([0, 1, 2], [0, 0, 2])):
        plain = segmentation_summary(segmentation_scores(heat[:, rows], masks))
        for name in ("pixel_accuracy", "miou", "map"):
            assert found[name][:, i].tolist() == pytest.approx(plain[name].tolist())
