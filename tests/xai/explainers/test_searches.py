"""TIS, the greedy search and AtMan on stock models."""

from typing import Any

import pytest
import torch

from xai import adapter_for, explain, given, record
from xai.explainers.tis import clusters, largest, tis
from xai.games.game import game_of
from xai.recording.recording import Recording

from ..conftest import Family, build
from ..games.handmade import Handmade, itself, rough


def recorded(family: Family, **changed: Any) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**{**family.inputs, **changed})
    return recorder.recording


# TIS


def test_clusters_find_groups_of_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 9]])
    maps = groups.repeat_interleave(20, dim=0) + 0.1 * torch.randn(60, 4, generator=generator)
    found = clusters(maps, 8, seed=1)
    assert found.shape == (8, 4)
    assert (torch.cdist(found, groups).amin(dim=1) < 0.5).all() and (torch.cdist(found, groups).amin(dim=0) < 0.5).all()
    assert torch.equal(found, clusters(maps, 8, seed=1)) and not torch.equal(found, clusters(maps, 8, seed=2))
    assert torch.equal(clusters(maps, 60, seed=1), maps)


def test_clusters_without_members_stay() -> None:
    maps = torch.tensor([[0.0, 1.0]] * 3 + [[5.0, 5.0]] * 2)  # at most two differ
    found = clusters(maps, 4, seed=0)
    assert found.isfinite().all() and len(found) == 4
    assert {tuple(row) for row in found.tolist()} <= {(0.0, 1.0), (5.0, 5.0)}


def test_masks_of_the_largest() -> None:
    maps = torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert largest(maps, 0.5).int().tolist() == [[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert largest(maps, 0.01).sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert", "clip"])
def test_tis_of_a_sample_is_that_of_its_batch(name: str) -> None:
    family = build(name)
    for place in range(2):
        one = {key: values[place : place + 1] for key, values in family.inputs.items()}
        target = family.target if name == "clip" else given(1)
        both = explain(family.model, family.inputs, "tis", target, budget=16).scores
        for modality, scores in explain(family.model, one, "tis", target, budget=16).scores.items():
            torch.testing.assert_close(both[modality][place : place + 1], scores)


def test_tis_runs_no_more_than_its_budget() -> None:
    recording, target = recorded(build("vit")), given(1)
    scores = tis(recording, target, budget=10)
    assert 2 < game_of(recording, target).runs <= 2 * (10 + 1)  # the whole input is run once, too
    content = recording.mask & ~recording.special
    assert scores[content].all() and not scores[~content].any()


def test_squares_take_the_mean_of_their_patches_channels() -> None:
    recording, target = recorded(build("vit")), given(1)
    assert torch.equal(tis(recording, target, 8, block=1) != 0, tis(recording, target, 8, block=2) != 0)
    whole = tis(recording, target, 8, block=2)[:, 1:]  # one square, which every mask keeps: a quarter of f(all) each
    torch.testing.assert_close(whole, game_of(recording, target).whole / 4 @ torch.ones(1, 4).double())


@pytest.mark.parametrize(("options", "message"), [({"share": 1.0}, "share is 1.0"), ({"budget": 0}, "budget is 0")])
def test_errors_of_tis(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tis(recorded(build("vit")), given(1), **options)


def test_without_states_there_is_nothing_to_cluster() -> None:
    with pytest.raises(ValueError, match="no states to cluster"):
        tis(Handmade(rough(0, 3), [[1, 1, 1]]).recording, itself)
