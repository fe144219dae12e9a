"""A model whose answer depends on known tokens only, so that every curve can be worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xai.metrics.perturbation import Perturbed, perturb
from xai.metrics.protocols import Protocol, area, named
from xai.metrics.ranking import random_relevance

POSITIVE, NEGATIVE = 0, 1
GENATT = named("genatt", "text")


def needs(tokens: Tensor) -> Callable[[Perturbed], dict[str, Tensor]]:
    """Right while all its `tokens` [B, T] are there; as sure as the share of them that is."""

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        needed = tokens[batch.rows]
        share = (needed & batch.keep).sum(1) / needed.sum(1)
        return {"accuracy": (share == 1).float(), "probability": share}

    return predict


def everything(batch: int, tokens: int) -> Tensor:
    return torch.ones(batch, tokens, dtype=torch.bool)


def gain(areas: Tensor) -> Tensor:
    """Symmetric relevance gain of areas [methods, directions, B] (Blücher et al. 2024)."""
    return areas[:, NEGATIVE] - areas[:, POSITIVE]


def deciding(batch: int, tokens: int, count: int, seed: int = 0) -> Tensor:
    scores = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))
    return scores.argsort(1).argsort(1) < count


def test_areas_by_hand() -> None:
    """Of 4 tokens the answer needs 1 and 3. genatt keeps 4, 3, 2, 1, 0 (int((1 - 0.8) * 4)), 0, 0, 0, 0."""
    truth = torch.tensor([[False, True, False, True]])
    best, worst = truth.float(), -truth.float()
    half = torch.tensor([[0.2, 0.9, 0.5, 0.1]])  # most relevant first: 1, 2, 0, 3
    relevance = torch.stack([best, worst, half])
    curves = perturb(relevance, everything(1, 4), torch.tensor([5]), needs(truth), GENATT)
    accuracy, probability = curves["accuracy"][:, :, 0], curves["probability"][:, :, 0]
    assert accuracy[0, POSITIVE].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert accuracy[0, NEGATIVE].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert probability[0, POSITIVE].tolist() == [1, 0.5, 0, 0, 0, 0, 0, 0, 0]
    assert probability[0, NEGATIVE].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0, 0]
    assert torch.equal(accuracy[1], accuracy[0].flip(0)) and torch.equal(probability[1], probability[0].flip(0))
    assert probability[2, POSITIVE].tolist() == [1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert probability[2, NEGATIVE].tolist() == [1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0]
    areas = area(curves["accuracy"], GENATT.shares)
    assert areas[0, :, 0].tolist() == pytest.approx([0.125, 0.625])
    assert area(probability[0], GENATT.shares).tolist() == pytest.approx([0.25, 0.7])
    assert gain(areas)[:, 0].tolist() == pytest.approx([0.5, -0.5, 0.0])


@pytest.mark.parametrize("name", ["wra", "genatt", "recommended"])
@pytest.mark.parametrize("figure", ["accuracy", "probability"])
def test_an_oracle_beats_all_its_inverse_loses_and_random_is_between(name: str, figure: str) -> None:
    truth, protocol = deciding(60, 20, 4), named(name, "image")
    noise = torch.rand(60, 20, generator=torch.Generator().manual_seed(1))
    noisy, random = truth + noise, random_relevance(torch.arange(60), 20, seeds=[0, 1, 2])
    relevance = torch.cat([torch.stack([truth.float(), noisy * 1.0, -truth.float()]), random])
    curves = perturb(relevance, everything(60, 20), torch.arange(60), needs(truth), protocol)[figure]
    areas = area(curves, protocol.shares)
    oracle, _, inverse, *floor = gain(areas).mean(1).tolist()
    assert oracle > max(floor) >= min(floor) > inverse
    assert all(abs(value) < 0.1 for value in floor)
    assert (areas[0, POSITIVE] <= areas[1:, POSITIVE] + 1e-6).all() and (
        areas[2, NEGATIVE] <= areas[:, NEGATIVE] + 1e-6
    ).all()


def test_the_inverted_map_swaps_the_directions() -> None:
    truth = deciding(8, 9, 2)
    relevance = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(2))
    arguments = (everything(8, 9), torch.arange(8), needs(truth), GENATT)
    curves = perturb(relevance, *arguments)["probability"]
    assert torch.equal(curves.flip(1), perturb(-relevance, *arguments)["probability"])


def test_special_tokens_stay_and_padding_is_never_there() -> None:
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    removable = mask.clone()
    removable[:, 0] = False
    seen: list[Perturbed] = []

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        seen.append(batch)
        return {"kept": batch.keep.sum(1)}

    relevance = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(3))
    relevance[:, :, 0] = 9
    curves = perturb(relevance, removable, torch.arange(2), predict, GENATT, mask=mask)["kept"]
    assert all(batch.keep[:, 0].all() and not (batch.keep & ~mask[batch.rows]).any() for batch in seen)
    assert curves[1, POSITIVE, 0].tolist() == [1 + int((1 - share) * 5) for share in GENATT.shares]
    assert curves[1, NEGATIVE, 1].tolist() == [1 + int((1 - share) * 3) for share in GENATT.shares]


def test_every_distinct_input_runs_once_in_batches_of_one_length() -> None:
    seen: list[Perturbed] = []
    truth = deciding(5, 70, 3)  # more tokens than a word has bits

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        seen.append(batch)
        return needs(truth)(batch)

    relevance = torch.rand(4, 5, 70, generator=torch.Generator().manual_seed(4))
    relevance[3] = 7 * relevance[2] - 1  # asks for the same inputs
    curves = perturb(relevance, everything(5, 70), torch.arange(5), predict, GENATT, batch_size=8)
    assert all(len(batch.rows) <= 8 and (batch.keep.sum(1) == batch.length).all() for batch in seen)
    inputs = {
        (int(row), tuple(keep.tolist())) for batch in seen for row, keep in zip(batch.rows, batch.keep, strict=True)
    }
    assert sum(len(batch.rows) for batch in seen) == len(inputs) == 5 * (1 + 3 * 2 * 7 + 1)
    assert sum(batch.length == 70 for batch in seen) == sum(batch.length == 0 for batch in seen) == 1
    assert torch.equal(curves["probability"][2], curves["probability"][3])


def test_a_samples_curves_do_not_depend_on_its_batch() -> None:
    truth = deciding(6, 8, 3)
    relevance = torch.randint(0, 2, (2, 6, 8), generator=torch.Generator().manual_seed(5)).float()
    ids = torch.tensor([100, 7, 3, 55, 9, 1])
    together = perturb(relevance, everything(6, 8), ids, needs(truth), GENATT)["probability"]
    for b in (0, 4):
        alone = perturb(relevance[:, [b]], everything(1, 8), ids[[b]], needs(truth[[b]]), GENATT, batch_size=1)
        assert torch.equal(alone["probability"], together[:, :, [b]])
    longer = torch.cat([relevance, torch.ones(2, 6, 2)], dim=2)
    removable = torch.cat([everything(6, 8), ~everything(6, 2)], dim=1)
    padded = perturb(longer, removable, ids, needs(torch.cat([truth, ~everything(6, 2)], 1)), GENATT, mask=removable)
    assert torch.equal(padded["probability"], together)


def test_steps_one_by_one_are_those_of_all_at_once() -> None:
    truth = deciding(2, 9, 3)
    relevance = torch.rand(2, 2, 9, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # with ties
    given = relevance, everything(2, 9), torch.tensor([4, 7]), needs(truth), GENATT
    whole = perturb(*given)["probability"]
    assert torch.equal(torch.cat([perturb(*given, steps=[i])["probability"] for i in range(9)], dim=-1), whole)
    assert torch.equal(perturb(*given, steps=[8, 0])["probability"], whole[..., [8, 0]])


def test_equal_relevance_is_no_better_than_random() -> None:
    """The deciding token comes first: breaking ties by position would remove it first."""
    truth = torch.zeros(400, 10, dtype=torch.bool)
    truth[:, 0] = True
    constant = torch.zeros(1, 400, 10)
    curves = perturb(constant, everything(400, 10), torch.arange(400), needs(truth), named("wra", "text"))
    assert gain(area(curves["accuracy"], named("wra", "text").shares)).mean().abs() < 0.05
    seeds = [
        perturb(constant, everything(400, 10), torch.arange(400), needs(truth), GENATT, seed=seed)["accuracy"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(seeds[0], seeds[1]) and not torch.equal(seeds[0], seeds[2])


def test_relevance_that_is_not_finite_is_nan_in_its_own_row_alone() -> None:
    truth = deciding(4, 6, 2)
    relevance = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(6))
    clean = perturb(relevance, everything(4, 6), torch.arange(4), needs(truth), GENATT)["accuracy"]
    relevance[1, 2, 5] = torch.nan
    relevance[2, 0, 0] = torch.inf
    found = perturb(relevance, everything(4, 6), torch.arange(4), needs(truth), GENATT)["accuracy"]
    bad = torch.zeros(3, 4, dtype=torch.bool)
    bad[1, 2] = bad[2, 0] = True
    assert found.isnan().all(-1).all(1).equal(bad) and found.isnan().any(-1).any(1).equal(bad)
    assert torch.equal(found.movedim(1, 2)[~bad], clean.movedim(1, 2)[~bad])
    removable = everything(4, 6)
    removable[2, 5] = False
    unread = perturb(relevance, removable, torch.arange(4), needs(truth), GENATT)["accuracy"]
    assert not unread[1].isnan().any()


def test_what_does_not_fit_is_refused() -> None:
    ids = torch.arange(2)
    with pytest.raises(ValueError, match=r"\[2, 3\], \[2, 3\], \[2\]"):
        perturb(torch.rand(2, 3), everything(2, 3), ids, needs(everything(2, 3)), GENATT)
    with pytest.raises(ValueError, match="none empty"):
        perturb(torch.rand(0, 2, 3), everything(2, 3), ids, needs(everything(2, 3)), GENATT)
    with pytest.raises(ValueError, match=r"'accuracy' of shape \[\]"):
        perturb(torch.rand(1, 2, 3), everything(2, 3), ids, lambda batch: {"accuracy": torch.tensor(1.0)}, GENATT)


def test_the_engine_knows_no_gradients() -> None:
    weight = torch.ones(1, requires_grad=True)
    found = perturb(
        torch.rand(1, 2, 3),
        everything(2, 3),
        torch.arange(2),
        lambda b: {"x": b.keep.sum(1) * weight},
        Protocol("wra", "drop", "text"),
    )
    assert not found["x"].requires_grad
