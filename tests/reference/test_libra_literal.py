"""LibraGrad written as its paper has it, a forward pass with detached parts, and what is built on its gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import Adapter, Layout, Site, difference, explain, explain_recording, given, record
from xai.explainers.libra_fullgrad import libra_fullgrad
from xai.lrp.propagation import Propagation
from xai.recording.adapter import at
from xai.recording.event import Event
from xai.recording.recording import Recording

from .conftest import ORDERS
from .test_field_literal import Vector, product
from .test_literal import each_sample

WIDTH, HEADS, TOKENS, LABELS = 4, 2, 5, (1, 0)
SIZE = WIDTH // HEADS
STREAM = ("x",)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Pre-norm; the feed-forward part is GELU's and, gated, SiLU's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.output = nn.LayerNorm(WIDTH), Attention(), nn.Linear(WIDTH, WIDTH)
        self.forward_norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)
        self.gate, self.value, self.close = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.output(self.attention(self.norm(x)))
        normed = self.forward_norm(x)
        x = x + self.down(F.gelu(self.up(normed)))
        return x + self.close(F.silu(self.gate(normed)) * self.value(normed))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class Slopes(NamedTuple):
    """Of one sample: the target, and by layer its gradient by A [H, T, T], the state [T, D] and the gradient by it."""

    y: Tensor
    A: list[Tensor]
    states: list[Tensor]
    by_state: list[Tensor]


def halved(x: Tensor) -> Tensor:
    return x / 2 + (x / 2).detach()


def activated(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    return x * (run(x) / x).detach()


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    spread = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    return (x - x.mean(-1, keepdim=True)) / spread.detach() * norm.weight + norm.bias


def by_detaching(model: Any, x: Tensor, label: int, keeps_attention: bool) -> Slopes:
    """Of one sample x [T, D]. Where the gradient through attention is kept, both products of attention count half."""
    maps, states = [], []
    x = x.clone().requires_grad_()
    for block in model.blocks:
        states.append(x)
        inside = normed(x, block.norm)
        q, k, v = (linear(inside) for linear in (block.attention.q, block.attention.k, block.attention.v))
        heads, layer = [], []
        for h in range(HEADS):
            part = slice(h * SIZE, (h + 1) * SIZE)
            scores = q[:, part] @ k[:, part].T
            if keeps_attention:
                A = (halved(scores) / SIZE**0.5).softmax(-1)
                mixed = halved(A @ v[:, part])
            else:
                A = (scores / SIZE**0.5).softmax(-1).detach().requires_grad_()
                mixed = A @ v[:, part]
            layer.append(A)
            heads.append(mixed)
        maps.append(layer)
        x = x + block.output(torch.cat(heads, dim=1))
        inside = normed(x, block.forward_norm)
        x = x + block.down(activated(block.up(inside), F.gelu))
        x = x + block.close(halved(activated(block.gate(inside), F.silu) * block.value(inside)))
    y = model.head(x[0])[label]
    slopes = torch.autograd.grad(y, [*states, *(A for layer in maps for A in layer)])
    by_A = [torch.stack(slopes[len(states) + i * HEADS :][:HEADS]) for i in range(len(states))]
    return Slopes(y.detach(), by_A, [state.detach() for state in states], list(slopes[: len(states)]))


def adapter() -> Adapter:
    sites = [
        (Site(f"blocks.{i}.attention", STREAM, STREAM, f"blocks.{i}.norm", f"blocks.{i}.output"),) for i in range(2)
    ]
    return Adapter(tuple(sites), lambda inputs, sizes: Layout({"x": TOKENS}, {"x": at(0, TOKENS)}, {}))


def small(biases: bool = True) -> tuple[Small, Tensor]:
    torch.manual_seed(0)
    model = Small().double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter)
        if name.endswith("bias") and not biases:
            nn.init.zeros_(parameter)
    return model, torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)


def recorded(model: nn.Module, x: Tensor, rules: bool = True) -> Recording:
    with record(model, adapter(), lrp="tokens" if rules else None) as recorder:
        model(x)
    return recorder.recording


GOAL = given(torch.tensor(LABELS))


@pytest.mark.parametrize(("backward", "keeps_attention"), [("libra", False), ("attn_lrp", True)])
def test_gradients_are_those_of_the_detached_model(backward: Any, keeps_attention: bool) -> None:
    model, x = small()
    recording = recorded(model, x)
    gradients, true = recording.gradients(GOAL, backward), recording.gradients(GOAL)
    for sample, label in enumerate(LABELS):
        expected = by_detaching(model, x[sample], label, keeps_attention)
        torch.testing.assert_close(recording.score(GOAL)[sample], expected.y)
        for event, by_A, state, by_state in zip(recording.events, *expected[1:], strict=True):
            torch.testing.assert_close(event.Y[sample].detach(), state)
            torch.testing.assert_close(gradients[event].Y[sample], by_state)
            torch.testing.assert_close(gradients[event].A[sample], by_A)
            assert (true[event].A[sample] - by_A).abs().max() > 1e-2


def test_input_times_libra_s_gradient_is_cp_lrp() -> None:
    recording = recorded(*small())
    for backward, method in (("libra", "cp_lrp"), ("attn_lrp", "attn_lrp")):
        found = explain_recording(recording, "input_gradient", GOAL, backward=backward).scores["x"]
        torch.testing.assert_close(found, explain_recording(recording, method, GOAL, gamma=0.0).scores["x"])


METHODS = [
    "genatt",
    "legrad",
    "attcat",
    "attention_gradcam",
    "input_gradient",
    "gradient_norm",
    "grad_eclip",
    "tokentm",
]


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_the_gradient_and_record_what_it_needs(method: str) -> None:
    """As if the recording's own gradient were Libra's."""
    model, x = small()
    recording = recorded(model, x)
    found = explain(model, x, method, GOAL, adapter(), backward="libra").scores["x"]
    plain = explain_recording(recording, method, GOAL).scores["x"]
    recording._gradients[GOAL, "autograd"] = recording.gradients(GOAL, "libra")
    torch.testing.assert_close(found, explain_recording(recording, method, GOAL).scores["x"])
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max() > 0
    with pytest.raises(ValueError, match=r"recorded without rules: record with lrp='tokens'.*backward than 'autograd'"):
        explain_recording(recorded(model, x, rules=False), method, GOAL, backward="libra")
    with pytest.raises(ValueError, match="backward is 'gentle'; give one of autograd, libra, attn_lrp"):
        recording.gradients(GOAL, "gentle")  # type: ignore[arg-type]


def test_attention_s_own_softmax_alone_is_blocked() -> None:
    """A target may be a probability: its softmax has its gradient."""
    model, x = small()
    recording = recorded(model, x)

    def probability(output: Tensor) -> Tensor:
        return output.softmax(-1)[:, 1]

    slope = recording.output.detach().softmax(-1).prod(-1)  # of two classes: p (1 - p)
    margin = recording.gradients(difference(1, 0), "libra")
    for event, gradient in recording.gradients(probability, "libra").items():
        expected = slope[:, None, None] * margin[event].Y
        torch.testing.assert_close(gradient.Y, expected)


def test_libra_fullgrad_of_a_model() -> None:
    model, x = small()
    found = explain(model, x, "libra_fullgrad", GOAL, adapter(), check=1e-9).scores["x"]
    for sample, label in enumerate(LABELS):
        _, _, states, slopes = by_detaching(model, x[sample], label, keeps_attention=False)
        for token in range(TOKENS):
            parts = [product(h[token].tolist(), g[token].tolist()) for h, g in zip(states, slopes, strict=True)]
            assert float(found[sample, token]) == pytest.approx(sum(parts) / len(parts))


def test_libra_fullgrad_is_complete_without_biases() -> None:
    model, x = small(biases=False)
    found = explain(model, x, "libra_fullgrad", GOAL, adapter())
    torch.testing.assert_close(found.scores["x"].sum(1), GOAL(model(x)))


@pytest.mark.parametrize("order", list(ORDERS))
def test_libra_fullgrad_takes_the_states_before_each_layer(make_tape: Any, target: Any, order: str) -> None:
    """On handmade recordings, whose output is linear, so that every gradient is the true one."""
    recording = replace(make_tape(order, seed=26), propagation=Propagation())
    gradients = recording.gradients(target)

    def slow(sample: int) -> Vector:
        scores = [0.0] * recording.mask.shape[1]
        for depth in range(len(recording.layers)):
            for token in range(len(scores)):
                event, row = holder(recording, depth, token)
                effect = product(event.Y[sample, row].tolist(), gradients[event].Y[sample, row].tolist())
                scores[token] += effect / len(recording.layers)
        return scores

    torch.testing.assert_close(libra_fullgrad(recording, target), each_sample(recording, slow))  # type: ignore[arg-type]


def holder(recording: Recording, depth: int, token: int) -> tuple[Event, int]:
    """The first event from layer `depth` on that asks with a token, else the last one before."""
    asking = [
        (number, event, token - event.queries.start)
        for number, layer in enumerate(recording.layers)
        for event in layer
        if event.queries.start <= token < event.queries.stop
    ]
    later = [(event, row) for number, event, row in asking if number >= depth]
    return later[0] if later else asking[-1][1:]
