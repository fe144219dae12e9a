"""TIS, the greedy search and AtMan on stock models."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from xai import Target, adapter_for, explain, given, record
from xai.explainers.atman import atman
from xai.explainers.greedy import falling, greedy
from xai.explainers.tis import clusters, largest, tis
from xai.games.game import game_of
from xai.recording.hidden import Hidden
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..adapters.stock import built
from ..conftest import Family, build
from ..games.handmade import Handmade, itself, rough
from ..toys import snapshot


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


# the greedy search


def test_effects_that_add_up_are_found_in_their_order() -> None:
    effects = [0.5, -1.0, 2.0, 0.25, 0.0]
    handmade = Handmade(lambda S, sample: sum(effects[i] for i in S), [[1] * 5])
    found = greedy(handmade.recording, itself, insertion=1.0, deletion=2.0)
    torch.testing.assert_close(found, torch.tensor([[3 * effect for effect in effects]]).double(), atol=3e-3, rtol=0)


def test_tokens_that_count_only_together_share_what_they_gain() -> None:
    """Nothing with one of 1 and 3, all with both: a later step gains what an earlier one could not."""
    handmade = Handmade(lambda S, sample: 6.0 * ({1, 3} <= S) + 0.1 * (0 in S), [[1] * 4])
    found = greedy(handmade.recording, itself, deletion=0.0)[0]
    assert found.argsort(descending=True).tolist() == [0, 1, 3, 2]
    torch.testing.assert_close(found.sum(), torch.tensor(6.1).double())
    both = greedy(handmade.recording, itself)[
        0
    ]  # to be without one of them costs all: the first of both is found at once
    assert both.argsort(descending=True).tolist() == [1, 3, 0, 2]
    torch.testing.assert_close(both.sum(), torch.tensor(12.2).double())


@pytest.mark.parametrize("block", [1, 2])
def test_order_and_sum_with_squares_of_any_size(block: int) -> None:
    """On a grid of 3 x 3 squares of two have four patches, two, and one: scores of patches fall in the order of insertion."""
    value = rough(40, 9)
    handmade = Handmade(value, [[1] * 9], modalities={"image": slice(0, 9)}, grids={"image": (3, 3)})
    found = greedy(handmade.recording, itself, block=block)[0]
    squares = [[0, 1, 3, 4], [2, 5], [6, 7], [8]] if block == 2 else [[i] for i in range(9)]
    everything = frozenset(range(9))

    def F(S: frozenset[int]) -> float:
        return value(S, 0) + 1 - value(everything - S, 0)

    S, before, order = frozenset[int](), torch.inf, []
    while len(order) < len(squares):
        best = max((s for s in squares if s not in order), key=lambda s: F(S | set(s)))
        order.append(best)
        S = S | set(best)
        assert len(set(found[best].tolist())) == 1 and found[best[0]] < before
        before = float(found[best[0]])
    torch.testing.assert_close(found.sum(), torch.tensor(2 * (value(everything, 0) - value(frozenset(), 0))).double())


def test_gains_that_never_rise() -> None:
    assert falling([3.0, 2.0, 1.0], [1, 1, 1]) == [3.0, 2.0, 1.0]
    assert falling([0.0, 4.0], [3, 1]) == [1.0, 1.0]
    assert falling([1.0, 2.0, 6.0], [1, 1, 1]) == [3.0, 3.0, 3.0]
    assert falling([-1.0, -3.0, -1.0], [1, 1, 1]) == [-1.0, -2.0, -2.0]


def test_a_target_that_the_model_ignores_has_no_order() -> None:
    found = greedy(Handmade(lambda S, sample: 0.25, [[1] * 5]).recording, itself)
    assert torch.equal(found, torch.zeros(1, 5).double())


@pytest.mark.parametrize(("budget", "squares"), [(20, 4), (19, 1), (16 * 17, 16), (16 * 17 - 1, 4), (1, 1)])
def test_squares_are_as_small_as_the_budget_allows(budget: int, squares: int) -> None:
    handmade = Handmade(
        lambda S, sample: float(len(S)) ** 2, [[1] * 16], modalities={"image": slice(0, 16)}, grids={"image": (4, 4)}
    )
    found = greedy(handmade.recording, itself, budget)[0].unflatten(0, (4, 4))
    assert len({tuple(places) for places, _ in handmade.asked if len(places) == 16 // squares} or {()}) == squares
    assert len(handmade.asked) < max(budget, 2) and found.all()


def test_the_first_step_is_made_whatever_the_budget() -> None:
    """Then all follow by what they gain alone."""
    value = rough(41, 6)
    handmade = Handmade(value, [[1] * 6])
    found = greedy(handmade.recording, itself, budget=1, deletion=0.0)[0]
    alone = sorted(range(6), key=lambda i: -value(frozenset({i}), 0))
    assert found.argsort(descending=True).tolist() == alone and len(handmade.asked) == 1 + 12


def test_rows_of_a_sample_have_searches_of_their_own() -> None:
    one, other, third = rough(42, 5), rough(43, 5), rough(44, 5)
    handmade = Handmade(lambda S, sample: float(sum(2**i for i in S)), [[1] * 5] * 2)  # the output is the input
    of, functions = torch.tensor([0, 1, 0]), (one, other, third)

    def each(outputs: torch.Tensor) -> torch.Tensor:
        sets = [frozenset(i for i in range(5) if int(number) >> i & 1) for number in outputs[of].tolist()]
        return torch.tensor([f(S, 0) for f, S in zip(functions, sets, strict=True)], dtype=torch.float64)

    found = greedy(by_rows(handmade.recording, of), each)
    for row, f in enumerate(functions):
        alone = Handmade(lambda S, sample, f=f: f(S, 0), [[1] * 5])
        torch.testing.assert_close(found[row], greedy(alone.recording, itself)[0])


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert"])
def test_a_search_of_a_sample_is_that_of_its_batch(name: str) -> None:
    family = build(name)
    for place in range(2):
        one = {key: values[place : place + 1] for key, values in family.inputs.items()}
        both = explain(family.model, family.inputs, "greedy", given(1), budget=80).scores
        for modality, scores in explain(family.model, one, "greedy", given(1), budget=80).scores.items():
            torch.testing.assert_close(both[modality][place : place + 1], scores)


# AtMan


@pytest.mark.parametrize("name", ["vit", "bert", "clip", "detr"])
def test_attention_in_plain_code_and_in_one_function_are_suppressed_alike(name: str) -> None:
    family = build(name)
    expected = explain(family.model, family.inputs, "atman", family.target).scores
    family.model.set_attn_implementation("eager")
    for modality, scores in explain(family.model, family.inputs, "atman", family.target).scores.items():
        torch.testing.assert_close(scores, expected[modality], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "distilbert", "visualbert", "lxmert", "vit", "timm", "torchvision"]
)
def test_atman_of_a_sample_is_that_of_its_batch_without_padding(name: str) -> None:
    family = build(name)
    both = explain(family.model, family.inputs, "atman", given(2)).scores
    short = family.shortened or (lambda inputs: {key: values[1:] for key, values in inputs.items()})
    for modality, scores in explain(family.model, short(family.inputs), "atman", given(2)).scores.items():
        torch.testing.assert_close(both[modality][1:, : scores.shape[1]], scores)
        assert not both[modality][1:, scores.shape[1] :].any() and scores.any()


@pytest.mark.parametrize("name", ["GPT-2", "BLOOM", "BLIP captions", "LLaVA", "ViLT", "T5", "FLAVA"])
def test_atman_of_models_without_a_table(name: str) -> None:
    """Content has scores, as far as it is read; what is written after the word that is explained has none."""
    family = built(name)
    recording = recorded(family)
    found = atman(recording, family.target)
    content = recording.mask & ~recording.special
    assert found[content].any() and not found[~content].any()
    if name in ("GPT-2", "BLOOM"):  # of the fourth token
        later = torch.arange(recording.mask.shape[1])[recording.modalities["text"]][4:]
        assert found[:, later].abs().max() < 1e-6 < found.abs().max()


def test_a_patch_is_suppressed_in_the_tower_and_where_the_language_model_reads_it() -> None:
    """Suppressed in the tower alone, its image token is read as before: that is another number."""
    family = built("LLaVA")
    recording = recorded(family)
    adapter = adapter_for(family.model, family.inputs)
    both = Hidden(family.model, adapter, recording, family.target, factor=0.9)
    keep = torch.ones(recording.mask.shape, dtype=torch.bool)
    keep[:, recording.modalities["image"].start + 3] = False
    made = recording.modalities["image tokens"]
    (place,) = recording.links["image tokens"].weights[:, 3].nonzero()[:, 0].tolist()
    axis = both._axis(keep, None)
    assert axis[:, made].logical_not().nonzero().tolist() == [[0, place], [1, place]]
    with torch.no_grad(), both.all_except_for(keep):
        everywhere = family.target(family.model(**family.inputs))
    own = replace(recording, links={})
    with torch.no_grad(), Hidden(family.model, adapter, own, family.target, factor=0.9).all_except_for(keep):
        tower = family.target(family.model(**family.inputs))
    whole = family.target(recording.output)
    assert not torch.allclose(everywhere, tower, atol=1e-7) and not torch.allclose(tower, whole, atol=1e-7)
    expected = (whole - everywhere).double().detach()  # a logit: this target knows no probability
    torch.testing.assert_close(atman(recording, family.target, likeness=1.1)[:, 3], expected, atol=1e-5, rtol=1e-3)


def test_rows_are_suppressed_as_each_alone() -> None:
    family = built("LLaVA")
    recording, sample, labels = recorded(family), torch.tensor([0, 1, 0]), torch.tensor([5, 7, 9])
    rows = by_rows(recording, sample)
    found = atman(rows, Target("rows", lambda outputs: outputs.logits[sample, -1, labels]))
    for row in range(3):
        label = int(labels[row])
        alone = atman(recording, Target("row", lambda outputs, label=label: outputs.logits[:, -1, label]))
        torch.testing.assert_close(found[row], alone[sample[row]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"), [("Swin", "attends in windows"), ("InternVL", "made from several of 'image' each")]
)
def test_tokens_that_cannot_be_suppressed_are_refused(name: str, message: str) -> None:
    family = built(name)
    with pytest.raises(ValueError, match=message):
        atman(recorded(family), family.target)


@pytest.mark.parametrize("factor", [0.0, 1.5, -1.0])
def test_a_factor_that_changes_nothing_or_turns_scores_round(factor: float) -> None:
    with pytest.raises(ValueError, match=f"factor is {factor}; give more than 0"):
        atman(recorded(build("bert")), given(1), factor)


def test_a_recording_that_cannot_suppress() -> None:
    with pytest.raises(ValueError, match="cannot run its model with tokens suppressed"):
        atman(Handmade(rough(0, 3), [[1, 1, 1]]).recording, itself)


def test_the_model_is_left_as_it_was() -> None:
    family = build("clip")
    recording, before = recorded(family), snapshot(family.model)
    atman(recording, family.target)
    assert snapshot(family.model) == before
