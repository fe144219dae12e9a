"""Pairs of tokens written out: Banzhaf interactions over all subsets, and exCLIP's products entry by entry."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import adapter_for, record
from xai.explainers.exclip import exclip, references
from xai.explainers.fixlip import fixlip
from xai.explainers.integrated_gradients import gauss_legendre
from xai.explainers.states import embeddings
from xai.games.game import game_of
from xai.games.interactions import banzhaf_pairs, crossed_pairs
from xai.games.masks import every, independent
from xai.recording.axis import index_of
from xai.recording.recording import Recording
from xai.targets import features

from ..xai.adapters.stock import STOCK
from ..xai.conftest import Family, build, prepared

Table = dict[tuple[int, ...], float]  # of a game: which players are there, and its value


def table_of(players: int, seed: int) -> Table:
    generator = torch.Generator().manual_seed(seed)
    masks = list(product((0, 1), repeat=players))
    return dict(zip(masks, torch.randn(len(masks), generator=generator, dtype=torch.float64).tolist(), strict=True))


def values_of(table: Table, masks: Tensor) -> Tensor:
    return torch.tensor([table[tuple(mask)] for mask in masks.long().tolist()], dtype=torch.float64)


def with_players(mask: tuple[int, ...], chosen: dict[int, int]) -> tuple[int, ...]:
    return tuple(chosen.get(i, there) for i, there in enumerate(mask))


def chance(mask: tuple[int, ...], left_out: tuple[int, ...], p: float) -> float:
    return prod(p if there else 1 - p for i, there in enumerate(mask) if i not in left_out)


def slow_value(table: Table, i: int, p: float) -> float:
    """The weighted Banzhaf value: what i adds to those that are there by chance."""
    masks = [mask for mask in table if mask[i] == 0]
    return sum(chance(m, (i,), p) * (table[with_players(m, {i: 1})] - table[m]) for m in masks)


def slow_pair(table: Table, i: int, j: int, p: float) -> float:
    """The weighted Banzhaf interaction: what i adds if j is there, less what it adds if not."""
    total = 0.0
    for m in table:
        if m[i] == m[j] == 0:
            both, one, other = ({i: 1, j: 1}, {i: 1}, {j: 1})
            change = (
                table[with_players(m, both)] - table[with_players(m, one)] - table[with_players(m, other)] + table[m]
            )
            total += chance(m, (i, j), p) * change
    return total


@pytest.mark.parametrize("p", [0.5, 0.3])
@pytest.mark.parametrize("cross", [True, False])
def test_all_masks_give_the_banzhaf_interactions(p: float, cross: bool) -> None:
    """Which pairs are left out changes no other: the value of i is φ_i + p Σ φ_ij, whatever j are in it."""
    table, masks = table_of(5, seed=1), every(5)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5) if not cross or (i < 2) != (j < 2)]
    found = banzhaf_pairs(masks, values_of(table, masks)[:, None], torch.tensor(pairs), p, drawn=False)
    for i in range(5):
        value = found.alone[i, 0] + p * found.together[i, :, 0].sum()
        assert value == pytest.approx(slow_value(table, i, p))
        for j in range(5):
            expected = slow_pair(table, i, j, p) if (min(i, j), max(i, j)) in pairs else 0.0
            assert found.together[i, j, 0].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_masks_of_two_sides_give_the_same(p: float) -> None:
    table, first, second = table_of(5, seed=2), every(2), every(3)
    both = torch.cat([first.repeat_interleave(8, 0), second.repeat(4, 1)], dim=1)
    found = crossed_pairs(first, second, values_of(table, both).view(4, 8), p, (False, False))
    for i in range(2):
        for j in range(2, 5):
            assert found.together[i, j, 0].item() == pytest.approx(slow_pair(table, i, j, p))
            assert found.together[j, i, 0] == found.together[i, j, 0]
    for i in range(5):
        value = found.alone[i, 0] + p * found.together[i, :, 0].sum()
        assert value == pytest.approx(slow_value(table, i, p))


def quadratic(players: int, cross: int, seed: int) -> tuple[Tensor, Tensor]:
    """What players have alone [n] and in pairs [n, n], pairs across the first `cross` and the others alone."""
    generator = torch.Generator().manual_seed(seed)
    alone = torch.randn(players, generator=generator, dtype=torch.float64)
    pairs = torch.randn(players, players, generator=generator, dtype=torch.float64).triu(1)
    pairs[:cross, :cross] = pairs[cross:, cross:] = 0
    return alone, pairs + pairs.mT


@pytest.mark.parametrize("p", [0.5, 0.7])
def test_a_game_of_pairs_is_found_from_some_masks(p: float) -> None:
    alone, together = quadratic(9, 4, seed=3)

    def values(masks: Tensor) -> Tensor:
        M = masks.double()
        return 2 + M @ alone + ((M @ together) * M).sum(dim=-1) / 2

    masks = independent(9, 120, p, seed=4)
    pairs = torch.tensor([(i, j) for i in range(4) for j in range(4, 9)])
    found = banzhaf_pairs(masks, values(masks)[:, None], pairs, p, drawn=True)
    torch.testing.assert_close(found.together[..., 0], together, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.alone[:, 0], alone, atol=1e-3, rtol=0)
    first, second = independent(4, 14, p, seed=5), independent(5, 15, p, seed=6)
    both = torch.cat([first.repeat_interleave(15, 0), second.repeat(14, 1)], dim=1)
    found = crossed_pairs(first, second, values(both).view(14, 15), p, (True, True))
    torch.testing.assert_close(found.together[..., 0], together, atol=2e-2, rtol=0)
    torch.testing.assert_close(found.alone[:, 0], alone, atol=2e-2, rtol=0)


def test_too_few_masks_give_pairs_that_are_like_the_true_ones() -> None:
    alone, together = quadratic(16, 8, seed=7)
    masks = independent(16, 60, 0.5, seed=8)
    M = masks.double()
    values = M @ alone + ((M @ together) * M).sum(dim=-1) / 2
    pairs = torch.tensor([(i, j) for i in range(8) for j in range(8, 16)])
    found = banzhaf_pairs(masks, values[:, None], pairs, 0.5, drawn=True).together[:8, 8:, 0].flatten()
    true = together[:8, 8:].flatten()
    assert found.isfinite().all()
    assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.4


def recorded_pass(family: Family) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def table_of_model(recording: Recording, target: Any, sample: int) -> tuple[Table, list[int]]:
    """The values of all masks of a sample's content, and where its tokens are."""
    content = (recording.mask & ~recording.special)[sample].nonzero()[:, 0].tolist()
    masks = list(product((0, 1), repeat=len(content)))
    keep = torch.ones(len(masks), recording.mask.shape[1], dtype=torch.bool)
    for number, mask in enumerate(masks):
        for there, token in zip(mask, content, strict=True):
            keep[number, token] = bool(there)
    values = game_of(recording, target)(keep, torch.full((len(masks),), sample))[:, 0]
    return dict(zip(masks, values.tolist(), strict=True)), content


@pytest.mark.parametrize("name", ["clip", "open_clip", "lxmert", "SigLIP"])
def test_fixlip_of_models_by_all_masks(name: str) -> None:
    """Of two towers 64 masks of each, each with each, are all masks."""
    family = prepared(STOCK[name]) if name in STOCK else build(name)
    recording, p = recorded_pass(family), 0.4
    found = fixlip(recording, family.target, budget=512 if name == "lxmert" else 64, p=p)
    sample = 1
    table, content = table_of_model(recording, family.target, sample)
    assert len(content) <= 10
    side = {t: n for n, where in recording.inputs.items() for t in index_of(where).tolist()}
    for i, one in enumerate(content):
        expected = slow_value(table, i, p)
        value = found[sample, one, one] + p * (found[sample, one].sum() - found[sample, one, one])
        assert value.item() == pytest.approx(expected, abs=1e-6 * max(1, abs(expected)))
        for j, other in enumerate(content):
            if i != j:
                expected = slow_pair(table, i, j, p) if side[one] != side[other] else 0.0
                assert found[sample, one, other].item() == pytest.approx(expected, abs=1e-6)
    outside = [t for t in range(recording.mask.shape[1]) if t not in content]
    assert not found[sample, outside].any() and not found[sample][:, outside].any()


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_exclip_entry_by_entry(name: str) -> None:
    """One backward pass for each feature and each node, of each side alone."""
    family = build(name)
    recording, steps = recorded_pass(family), 2
    found = exclip(recording, family.target, steps=steps)
    x, r = embeddings(recording), references(recording)
    assert recording.rerun is not None
    width = features(recording.output)[0].shape[1]
    moved = {n: torch.zeros(2, width, x[n].shape[1], dtype=torch.float64) for n in ("image", "text")}
    for side, modality in enumerate(("image", "text")):
        for at, weight in zip(*(t.tolist() for t in gauss_legendre(steps)), strict=True):
            for feature in range(width):
                again = recording.rerun({modality: r[modality] + at * (x[modality] - r[modality])})
                slopes = again.gradients(lambda outputs, f=feature, s=side: features(outputs)[s][:, f])[1][modality]
                for sample in range(2):
                    for token in range(slopes.shape[1]):
                        change = x[modality][sample, token] - r[modality][sample, token]
                        moved[modality][sample, feature, token] += weight * float(slopes[sample, token] @ change)
    scale = scale_of(family)
    image, text = index_of(recording.modalities["image"]).tolist(), index_of(recording.modalities["text"]).tolist()
    for sample in range(2):
        for a, i in enumerate(text):
            for b, j in enumerate(image):
                A = scale * sum(float(moved["text"][sample, f, a] * moved["image"][sample, f, b]) for f in range(width))
                assert found[sample, i, j].item() == pytest.approx(A, rel=1e-4, abs=1e-7)
                assert found[sample, j, i] == found[sample, i, j]
    assert not found[:, image][:, :, image].any() and not found[:, text][:, :, text].any()


def scale_of(family: Family) -> float:
    outputs = family.model(**family.inputs)
    return float((outputs[2] if isinstance(outputs, tuple) else family.model.logit_scale.exp()).detach())


@pytest.mark.parametrize(("name", "steps"), [("clip", 48), ("open_clip, two modules", 24)])
def test_pairs_of_exclip_sum_to_what_image_and_text_have_together(name: str, steps: int) -> None:
    family = build(name)
    recording = recorded_pass(family)
    x, r = embeddings(recording), references(recording)
    rerun = recording.rerun
    assert rerun is not None

    def f(image: Tensor, text: Tensor) -> Tensor:
        return family.target(rerun({"image": image, "text": text}).output).detach()

    expected = f(x["image"], x["text"]) - f(r["image"], x["text"]) - f(x["image"], r["text"]) + f(r["image"], r["text"])
    found = exclip(recording, family.target, steps=steps)
    torch.testing.assert_close(found.sum(dim=(1, 2)) / 2, expected, rtol=2e-2, atol=1e-4)
    special = recording.special | ~recording.mask
    assert not found.transpose(1, 2)[special].any()
