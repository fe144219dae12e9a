"""What must hold whatever the numbers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai.explainers import EXPLAINERS, METHODS
from xai.explainers.algebra import advance, identity, readout_scores
from xai.explainers.genatt import genatt
from xai.explainers.interaction import interaction
from xai.explainers.wra import attention_share, wra, wra_change
from xai.targets import Target

from .conftest import BIMODAL, ORDERS, tape_of, total

INPUT_GRADIENTS = ("input_gradient", "integrated_gradients", "smoothgrad", "gradient_norm")


@settings(max_examples=25)
@given(order=st.sampled_from(sorted(ORDERS)), seed=st.integers(0, 10_000), equal=st.booleans())
def test_rows_of_wra_are_shares_after_every_event(order: str, seed: int, equal: bool) -> None:
    recording = tape_of(order, seed)
    change = wra_change(recording.gradients(total), equal)
    R = identity(recording)
    for layer in recording.layers:
        for event in layer:
            after = advance(R, (event,), change)
            torch.testing.assert_close(after.sum(-1), torch.ones_like(after[..., 0]))
            assert (after >= 0).all()
        R = advance(R, layer, change)


ONE_PASS = {name for name in EXPLAINERS if METHODS[name].passes == "one"}


@pytest.mark.parametrize("order", ["single", "towers"])
def test_genatt_of_self_attention_is_the_product_of_identity_plus_evidence(order: str) -> None:
    recording = tape_of(order, seed=7)
    gradients = recording.gradients(total)
    expected = identity(recording)
    for layer in recording.layers:
        M = identity(recording)
        for event in layer:
            M[:, event.queries, event.keys] += gradients[event].evidence
        expected = M @ expected
    torch.testing.assert_close(genatt(recording, total), expected)


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("method", sorted(ONE_PASS - {"random"}))
def test_samples_do_not_see_each_other(order: str, method: str) -> None:
    recording = tape_of(order, seed=8)
    swapped = tape_of(order, seed=8)
    for event in swapped.events:  # the same numbers with the two samples exchanged
        assert event.qkv is not None
        for tensor in (event.A, event.Y, event.Y_out, event.qkv.query, event.qkv.key, event.qkv.value):
            tensor.data = tensor.data.flip(0)
    gradients = recording.gradients(total)
    other = swapped.gradients(total)
    for event, twin in zip(recording.events, swapped.events, strict=True):
        for name in ("A", "Y", "Y_out"):
            getattr(other[twin], name).copy_(getattr(gradients[event], name).flip(0))
    torch.testing.assert_close(EXPLAINERS[method](swapped, total).flip(0), EXPLAINERS[method](recording, total))


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("method", [name for name in EXPLAINERS if not METHODS[name].removes])  # which run a model
def test_a_target_that_ignores_the_model_gives_no_nan(order: str, method: str) -> None:
    recording = tape_of(order, seed=9, scale=0.0)
    relevance = EXPLAINERS[method](recording, total)
    assert relevance.isfinite().all()
    if method in ("genatt", "wra"):
        assert torch.equal(relevance, identity(recording))
    if method in ("attention_gradcam", "interaction", "legrad", "grad_eclip", "attcat", *INPUT_GRADIENTS):
        assert not relevance.any()
    if method == "tokentm":
        assert torch.equal(relevance, relevance * identity(recording))


@pytest.mark.parametrize("order", BIMODAL)
def test_undefined_normalisation_keeps_or_drops(order: str) -> None:
    """The first token of every event has no evidence, so N would divide by 0 in every cross event."""
    recording = tape_of(order, seed=10)
    kept, dropped = genatt(recording, total), genatt(recording, total, drop_undefined=True)
    a, b = recording.modalities["a"], recording.modalities["b"]
    assert kept.isfinite().all()
    assert kept[:, a, b].any()
    assert not dropped[:, a, b].any()


def test_evidence_of_an_unread_direction_stays_away() -> None:
    """In an encoder-decoder nothing of the queries can be in the encoder's tokens."""
    recording = tape_of("encoder-decoder", seed=11)
    for method in (genatt, wra):
        assert not method(recording, total)[:, recording.modalities["b"], recording.modalities["a"]].any()


def test_the_share_of_attention() -> None:
    recording = tape_of("single", seed=12)
    event = recording.events[0]
    gradient = recording.gradients(total)[event]
    gradient.Y_out.zero_()
    assert torch.equal(attention_share(event, gradient), torch.zeros(2).double())
    gradient.Y.zero_()
    assert torch.equal(attention_share(event, gradient), torch.full((2,), 0.5).double())


def test_simultaneous_events_read_the_state_before_either() -> None:
    recording = tape_of("cross first", seed=13)
    gradients = recording.gradients(total)
    first, second = recording.layers[0]
    change = wra_change(gradients)
    together = advance(identity(recording), (first, second), change)
    in_turn = advance(advance(identity(recording), (first,), change), (second,), change)
    assert torch.equal(together, advance(identity(recording), (second, first), change))
    assert not torch.allclose(together, in_turn)


def test_interaction_is_mutual_when_asked() -> None:
    recording = tape_of("co-attention", seed=14)
    mutual = interaction(recording, total, mutual=True)
    torch.testing.assert_close(mutual, mutual.mT)


@pytest.mark.parametrize("method", ["genatt", "wra", "rollout", "interaction", "legrad", "attcat", "tokentm"])
def test_the_last_layers_alone(method: str) -> None:
    recording = tape_of("single", seed=15)
    last = EXPLAINERS[method](recording, total, last=1)
    event = recording.layers[-1][0]
    assert torch.equal(EXPLAINERS[method](recording, total, last=3), EXPLAINERS[method](recording, total))
    if method == "genatt":
        torch.testing.assert_close(last, identity(recording) + recording.gradients(total)[event].evidence)
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"last is {wrong}; this recording has 3 layers"):
            EXPLAINERS[method](recording, total, last=wrong)


def test_random_scores_depend_on_the_seed_alone() -> None:
    recording = tape_of("single", seed=16)
    first: Any = EXPLAINERS["random"](recording, total, seed=1)
    assert torch.equal(first, EXPLAINERS["random"](tape_of("single", seed=17), total, seed=1))
    assert not torch.equal(first, EXPLAINERS["random"](recording, total, seed=2))


def test_what_is_read_is_a_row() -> None:
    recording = tape_of("co-attention", seed=18)
    R = wra(recording, total)
    target = Target("second of a", total, ("a", 1))
    torch.testing.assert_close(readout_scores(recording, R, target), R[:, 1])
    recording.mask[1, 2] = False
    assert not readout_scores(recording, R, target)[1, 2]
