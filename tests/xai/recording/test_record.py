"""Recording: what it sees, and what it leaves as it was."""

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import Adapter, Site, record

from ..toys import TWO, X, adapter_of, blocks, model_of, snapshot, x


@pytest.mark.parametrize("kind", ["sdpa", "F.softmax", "torch.softmax", "method", "module"])
def test_sees_attention_however_it_is_computed(kind: str) -> None:
    model = blocks(kind)
    expected = model(x()).detach()
    with record(model, TWO) as recorder:
        torch.testing.assert_close(model(x()).detach(), expected, atol=1e-5, rtol=1e-5)
    q, k, _ = model.blocks[0].qkv(x()).chunk(3, dim=-1)
    event = recorder.recording.events[0]
    torch.testing.assert_close(event.A[:, 0], (q @ k.mT * 8**-0.5).softmax(-1))
    torch.testing.assert_close(event.Y.detach(), x())
    torch.testing.assert_close(event.Y_out.detach(), model.blocks[0](x()).detach())


def test_gradients_are_those_of_autograd() -> None:
    model = blocks("method")
    with record(model, TWO) as recorder:
        model(x())
    target = lambda output: output[:, 1]  # noqa: E731
    gradient = recorder.recording.gradients(target)[recorder.recording.events[0]]
    start = x().requires_grad_()
    (expected,) = torch.autograd.grad(model(start)[:, 1].sum(), start)
    torch.testing.assert_close(gradient.Y, expected)
    A = recorder.recording.events[0].A.detach().requires_grad_()
    v = model.blocks[0].qkv(x()).chunk(3, dim=-1)[2]
    later = x() + (A @ v[:, None])[:, 0]
    (expected,) = torch.autograd.grad(model.head((later + model.blocks[1](later))[:, 0])[:, 1].sum(), A)
    torch.testing.assert_close(gradient.A, expected)


@pytest.mark.parametrize("broken", [False, True])
def test_everything_is_as_it_was(broken: bool) -> None:
    model = blocks("method")
    model.blocks[1].train()
    model.blocks[0].qkv.weight.requires_grad_(False)
    before, inputs = snapshot(model), x()
    try:
        with record(model, TWO):
            model(inputs[..., :3] if broken else inputs)
            torch.rand(3)
    except RuntimeError as error:
        assert broken and "mat1" in str(error)
    assert snapshot(model) == before
    assert torch.is_grad_enabled() and not inputs.requires_grad
    assert F.scaled_dot_product_attention(*[torch.ones(1, 1, 2, 2)] * 3, dropout_p=1.0).shape == (
        1,
        1,
        2,
        2,
    )  # torch's again


def test_an_error_in_the_body_restores_too() -> None:
    model = blocks()
    before = snapshot(model)
    with pytest.raises(KeyError), record(model, TWO):
        model(x())
        raise KeyError
    assert snapshot(model) == before


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("outside", [True, False])
def test_callers_without_gradients(context: Any, outside: bool) -> None:
    model = blocks().requires_grad_(False)
    target = lambda output: output[:, 0]  # noqa: E731
    with record(model, TWO) as recorder:
        model(x())
    expected = recorder.recording.gradients(target)[recorder.recording.events[0]].A
    if outside:
        with context(), record(model, TWO) as recorder:
            model(x())
            assert not torch.is_grad_enabled()
    else:
        with record(model, TWO) as recorder, context():
            model(x())
    with context():
        found = recorder.recording.gradients(target)[recorder.recording.events[0]].A
    torch.testing.assert_close(found, expected)


def test_a_frozen_part_inside_the_model_is_explained() -> None:
    model = blocks()
    model.frozen = True
    with record(model, TWO) as recorder:
        model(x())
    gradients = recorder.recording.gradients(lambda output: output[:, 0])
    assert all(gradient.A.any() for gradient in gradients.values())
    assert not model.blocks[0](x()).isnan().any() and torch.is_grad_enabled()


def test_autocast_has_probabilities_in_single_precision() -> None:
    model = blocks()
    with record(model, TWO) as recorder, torch.autocast("cpu", torch.bfloat16):
        model(x())
    event = recorder.recording.events[1]
    assert event.A.dtype == torch.float32
    torch.testing.assert_close(event.A.sum(-1), torch.ones_like(event.A[..., 0]))
    assert recorder.recording.gradients(lambda output: output[:, 0].float())[event].A.isfinite().all()


def test_the_graph_starts_at_the_first_attention() -> None:
    model = model_of(lambda x: inner(first(x)), first=(first := nn.Linear(8, 8)), inner=(inner := blocks()))
    with record(model, adapter_of("inner.blocks.0", "inner.blocks.1")) as recorder:
        model(x())
    start, later = recorder.recording.events
    assert start.Y.is_leaf and not later.Y.is_leaf
    assert first.weight.requires_grad


def test_dropout_is_off() -> None:
    model = blocks("method").train()
    with record(model, TWO):
        first = model(x())
    torch.testing.assert_close(first, model.eval()(x()))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_the_fused_encoder_of_torch_is_unfused() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model = model_of(lambda x: encoder(x, src_key_padding_mask=mask), encoder=encoder)
    names = [f"encoder.layers.{i}" for i in range(2)]
    sites = tuple((Site(f"{name}.self_attn", X, X, name, f"{name}.dropout1"),) for name in names)
    expected = model(x())
    with record(model, Adapter(sites, TWO.layout)) as recorder:
        found = model(x())
    torch.testing.assert_close(found[~mask], expected[~mask], atol=1e-5, rtol=1e-5)
    assert all(not event.A[1, :, :, 3:].any() for event in recorder.recording.events)


def test_nothing_is_left_when_the_tape_is_let_go() -> None:
    model = blocks()
    gc.disable()  # a cycle would wait for the collector, and a pass of a large model with it
    try:
        with record(model, TWO) as recorder:
            model(x())
        recording = recorder.recording
        recording.gradients(first_logit)
        watched = weakref.ref(recording.events[0].A)
        del recording, recorder
        assert watched() is None
    finally:
        gc.enable()


def first_logit(output: Tensor) -> Tensor:
    return output[:, 0]
