"""Tapes made by hand: random attentions and gradients in every order of events, so that a rule meets each case."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from xai.recording.event import QKV, Event, InGraph
from xai.recording.recording import Recording
from xai.recording.rerun import Rerun

SIZES = {"a": 3, "b": 4}
A, B = slice(0, 3), slice(3, 7)
BOTH = slice(0, 7)
ORDERS: dict[str, list[list[tuple[slice, slice]]]] = {
    "single": [[(A, A)], [(A, A)], [(A, A)]],
    "towers": [[(A, A), (B, B)], [(A, A), (B, B)]],
    "co-attention": [[(A, A), (B, B)], [(A, B), (B, A)], [(A, A), (B, B)], [(A, B), (B, A)], [(A, A), (B, B)]],
    "cross first": [[(A, B), (B, A)], [(A, A), (B, B)], [(A, B), (B, A)]],
    "encoder-decoder": [[(B, B)], [(B, B)], [(A, A)], [(A, B)], [(A, A)], [(A, B)]],
    "self and cross at once": [[(A, A), (B, A)], [(A, B), (B, B)]],
    "joint after towers": [[(A, A), (B, B)], [(BOTH, BOTH)], [(BOTH, BOTH)]],
}
BIMODAL = ("co-attention", "cross first", "encoder-decoder")
BATCH, HEADS, WIDTH = 2, 2, 5
MakeTape = Callable[..., Recording]


def total(output: Tensor) -> Tensor:
    """The target of a handmade recording: the output itself, [B]."""
    return output


@pytest.fixture
def target() -> Callable[[Tensor], Tensor]:
    return total


@pytest.fixture
def make_tape() -> MakeTape:
    return tape_of


def tape_of(order: str, seed: int, unreached: int = 0, scale: float = 1.0) -> Recording:
    """The last `unreached` events are no part of the target; the first token of every event has no positive evidence."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [pair for layer in ORDERS[order] for pair in layer]
    events = list(_events(pairs, generator))
    output = torch.zeros(BATCH, dtype=torch.float64)
    for event in events[: len(events) - unreached]:
        output = output + scale * _weighted(event, generator)
    iterator = iter(events)
    layers = tuple(tuple(next(iterator) for _ in layer) for layer in ORDERS[order])
    tokens = 3 if order == "single" else 7
    readout = torch.zeros(BATCH, tokens, dtype=torch.float64)
    readout[:, 1] = 1
    modalities = {"a": A} if order == "single" else {"a": A, "b": B}
    mask = torch.ones(BATCH, tokens, dtype=torch.bool)
    return Recording(
        layers, modalities, readout, mask, ~mask, {}, output, partial(rerun, order, seed, unreached, scale)
    )


def rerun(order: str, seed: int, unreached: int, scale: float, states: Mapping[str, Tensor], layer: int = 0) -> Rerun:
    """The output is linear: other states would not change a slope."""
    recording = tape_of(order, seed, unreached, scale)
    first = {
        name: next((e, e.rows(where)) for layer in recording.layers[layer:] for e in layer if e.rows(where) is not None)
        for name, where in recording.modalities.items()
    }
    places = {name: (event.Y, rows) for name, (event, rows) in first.items() if name in states}
    return Rerun(recording.output, places, len(recording.mask), len(recording.mask))


def _events(pairs: list[tuple[slice, slice]], generator: torch.Generator) -> Iterator[Event]:
    for i, (s, k) in enumerate(pairs):
        q, n = s.stop - s.start, k.stop - k.start
        A = torch.randn(BATCH, HEADS, q, n, generator=generator, dtype=torch.float64).softmax(-1)
        Y, Y_out = (torch.randn(BATCH, q, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
        tensors = InGraph({"A": (A.requires_grad_(),), "Y": (Y.requires_grad_(),), "Y_out": (Y_out.requires_grad_(),)})
        yield Event(f"event {i}", s, k, tensors, _qkv(i, q, n))


def _qkv(seed: int, q: int, k: int) -> QKV:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, HEADS, tokens, 3) for tokens in (q, k, k)] + [(WIDTH, HEADS * 3)]
    return QKV(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def _weighted(event: Event, generator: torch.Generator) -> Tensor:
    """[B], linear in the event's tensors, so that its gradients are the random weights."""
    parts = []
    for tensor in (event.A, event.Y, event.Y_out):
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor is event.A:
            weights[:, :, 0] = -weights[:, :, 0].abs()
        parts.append((weights * tensor).flatten(1).sum(1))
    return parts[0] + parts[1] + parts[2]
