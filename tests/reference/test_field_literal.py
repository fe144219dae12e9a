"""LeGrad, Grad-ECLIP, AttCAT, TokenTM, the input gradients and the baselines written out entry by entry."""

from dataclasses import replace
from math import exp, sqrt
from typing import Any

import pytest
import torch

from xai.explainers.attcat import attcat
from xai.explainers.grad_eclip import grad_eclip
from xai.explainers.gradient_norm import gradient_norm
from xai.explainers.input_gradient import input_gradient
from xai.explainers.integrated_gradients import integrated_gradients
from xai.explainers.legrad import legrad
from xai.explainers.similarity import similarity
from xai.explainers.smoothgrad import smoothgrad
from xai.explainers.tokentm import tokentm
from xai.recording.event import Event, InGraph
from xai.recording.recording import Recording

from .conftest import ORDERS
from .test_literal import Matrix, dot, each_sample, eye, plus, positive_evidence, zeros

Vector = list[float]
LAST = [None, 1, 2]


def product(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def length(x: Vector) -> float:
    return sqrt(product(x, x))


def cosine(x: Vector, y: Vector) -> float:
    return product(x, y) / (length(x) * length(y))


def all_heads(tensor: Any, sample: int, token: int) -> Vector:
    """The heads of one token, one after the other, of [B, H, tokens, d]."""
    return [x for head in tensor[sample].tolist() for x in head[token]]


def range_of(recording: Recording, last: int | None) -> int:
    """The number of the first layer."""
    return 0 if last is None else len(recording.layers) - last


def holders(recording: Recording, depth: int) -> dict[int, tuple[Event, int]]:
    """For each token the last event up to and with layer `depth` that asks with it, else its first, and its row there."""
    found: dict[int, tuple[Event, int]] = {}
    for number, layer in enumerate(recording.layers):
        for event in layer:
            for row, token in enumerate(range(event.queries.start, event.queries.stop)):
                if number <= depth or token not in found:
                    found[token] = (event, row)
    return found


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("last", LAST)
def test_legrad(make_tape: Any, target: Any, order: str, last: int | None) -> None:
    recording = make_tape(order, seed=21)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Vector:
        scores = [0.0] * recording.mask.shape[1]
        for layer in recording.layers[range_of(recording, last) :]:
            for event in layer:
                grad = gradients[event].A[sample].tolist()
                for head in grad:
                    for row in head:
                        for j, value in enumerate(row):
                            scores[event.keys.start + j] += max(value, 0) / (len(grad) * len(head))
        return scores

    torch.testing.assert_close(legrad(recording, target, last=last), each_sample(recording, slow))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("last", LAST)
def test_attcat(make_tape: Any, target: Any, order: str, last: int | None) -> None:
    recording = make_tape(order, seed=22)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Vector:
        scores = [0.0] * recording.mask.shape[1]
        for depth in range(range_of(recording, last), len(recording.layers)):
            held = holders(recording, depth)
            for event in recording.layers[depth]:
                A = event.A[sample].tolist()
                for j in range(len(A[0][0])):
                    token = event.keys.start + j
                    holder, row = held[token]
                    received = sum(row_[j] for head in A for row_ in head) / (len(A) * len(A[0]))
                    activation = product(holder.Y[sample, row].tolist(), gradients[holder].Y[sample, row].tolist())
                    scores[token] += received * activation
        return scores

    torch.testing.assert_close(attcat(recording, target, last=last), each_sample(recording, slow))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("loosened", [True, False])
def test_grad_eclip(make_tape: Any, target: Any, order: str, last: int, loosened: bool) -> None:
    recording = make_tape(order, seed=23)
    gradients = recording.gradients(target)

    def entry(event: Event, sample: int, i: int, j: int) -> float:
        if event.is_self and i == j:
            return 0.0
        others = [k for k in range(event.A.shape[3]) if not (event.is_self and k == i)]
        assert event.qkv is not None
        query = all_heads(event.qkv.query, sample, i)
        cosines = {k: cosine(query, all_heads(event.qkv.key, sample, k)) for k in others}
        low, high = min(cosines.values()), max(cosines.values())
        likeness = (cosines[j] - low) / (high - low) if loosened else 1.0
        return likeness * sum(gradients[event].A[sample, :, i, j].tolist())

    def slow(sample: int) -> Matrix:
        T = recording.mask.shape[1]
        M, shown = zeros(T, T), [[0] * T for _ in range(T)]
        for event in reversed(recording.events):
            for i in range(event.A.shape[2]):
                for j in range(event.A.shape[3]):
                    s, k = event.queries.start + i, event.keys.start + j
                    if shown[s][k] < last:
                        M[s][k] += entry(event, sample, i, j)
                        shown[s][k] += 1
        return [[max(value, 0) for value in row] for row in M]

    torch.testing.assert_close(
        grad_eclip(recording, target, loosened=loosened, last=last), each_sample(recording, slow)
    )


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("last", LAST)
def test_tokentm(make_tape: Any, target: Any, order: str, last: int | None) -> None:
    recording = make_tape(order, seed=24)
    gradients = recording.gradients(target)

    def transformations(event: Event, depth: int, sample: int) -> Vector:
        held = holders(recording, depth)
        assert event.qkv is not None and event.qkv.projection is not None
        pairs = []
        for j in range(event.A.shape[3]):
            holder, row = held[event.keys.start + j]
            value = all_heads(event.qkv.value, sample, j)
            pairs.append((holder.Y[sample, row].tolist(), [product(w, value) for w in event.qkv.projection.tolist()]))
        mean = sum(exp(cosine(x, new)) for x, new in pairs) / len(pairs)
        return [length(new) / length(x) * exp(cosine(x, new)) / mean for x, new in pairs]

    def slow(sample: int) -> Matrix:
        T, first = recording.mask.shape[1], range_of(recording, last)
        held = holders(recording, first if last else -1)
        C = eye(T)
        for token, (holder, row) in held.items():
            C[token][token] = length(holder.Y[sample, row].tolist())
        for depth in range(first, len(recording.layers)):
            before = [row_[:] for row_ in C]
            for event in recording.layers[depth]:
                W = transformations(event, depth, sample)
                evidence = positive_evidence(event, gradients[event], sample)
                weighed = [[a * w for a, w in zip(row_, W, strict=True)] for row_ in evidence]
                C[event.queries] = plus(C[event.queries], dot(weighed, before[event.keys]))
        return C

    torch.testing.assert_close(tokentm(recording, target, last=last), each_sample(recording, slow))


@pytest.mark.parametrize("order", ["single", "towers", "encoder-decoder", "cross first"])
def test_input_gradients_of_a_linear_model(make_tape: Any, target: Any, order: str) -> None:
    """The output of a handmade recording is linear in its tensors: all three agree, whatever the noise."""
    recording = make_tape(order, seed=25)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Vector:
        return [
            product(event.Y[sample, row].tolist(), gradients[event].Y[sample, row].tolist())
            for _, (event, row) in sorted(holders(recording, -1).items())
        ]

    expected = each_sample(recording, slow)  # type: ignore[arg-type]
    torch.testing.assert_close(input_gradient(recording, target), expected)
    torch.testing.assert_close(integrated_gradients(recording, target, steps=2, baseline="zero"), expected)
    torch.testing.assert_close(smoothgrad(recording, target, samples=2, noise=0.5), expected)


@pytest.mark.parametrize(("order", "layers"), [("single", 3), ("co-attention", 5), ("joint after towers", 3)])
def test_integrated_gradients_at_a_layer_of_a_linear_model(
    make_tape: Any, target: Any, order: str, layers: int
) -> None:
    """State times gradient, of the first event from the layer on that asks with the token."""
    recording = make_tape(order, seed=27)
    gradients = recording.gradients(target)
    for layer in range(layers):

        def slow(sample: int, layer: int = layer) -> Vector:
            scores = []
            for token in range(recording.mask.shape[1]):
                event = next(e for events in recording.layers[layer:] for e in events if asks(e, token))
                row = token - event.queries.start
                scores.append(product(event.Y[sample, row].tolist(), gradients[event].Y[sample, row].tolist()))
            return scores

        found = integrated_gradients(recording, target, steps=2, baseline="zero", layer=layer)
        torch.testing.assert_close(found, each_sample(recording, slow))  # type: ignore[arg-type]


def asks(event: Event, token: int) -> bool:
    return event.queries.start <= token < event.queries.stop


@pytest.mark.parametrize("order", list(ORDERS))
def test_gradient_norm(make_tape: Any, target: Any, order: str) -> None:
    recording = make_tape(order, seed=28)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Vector:
        first = sorted(holders(recording, -1).items())
        return [length(gradients[event].Y[sample, row].tolist()) for _, (event, row) in first]

    found = gradient_norm(recording, target)
    torch.testing.assert_close(found, each_sample(recording, slow))  # type: ignore[arg-type]
    torch.testing.assert_close(gradient_norm(recording, lambda output: -2 * output), 2 * found)


@pytest.mark.parametrize("order", list(ORDERS))
def test_similarity(make_tape: Any, target: Any, order: str) -> None:
    """1 of a token with itself; of two that no attention joins, 0."""
    recording = make_tape(order, seed=29)
    T = recording.mask.shape[1]

    def slow(sample: int) -> Matrix:
        held = holders(recording, len(recording.layers))
        vectors = [(held[i][0].Y + held[i][0].Y_out)[sample, held[i][1]].tolist() for i in range(T)]
        return [[cosine(vectors[i], vectors[j]) if joined(i, j) else 0.0 for j in range(T)] for i in range(T)]

    def joined(i: int, j: int) -> bool:
        return any(asks(event, i) and event.keys.start <= j < event.keys.stop for event in recording.events)

    torch.testing.assert_close(similarity(recording, target), each_sample(recording, slow))


def test_states_of_different_widths_are_not_compared(make_tape: Any, target: Any) -> None:
    recording = make_tape("encoder-decoder", seed=30)

    def narrowed(event: Event) -> Event:
        """Those of the encoder."""
        parts = InGraph({"A": event.in_graph.A, "Y": (event.Y[..., :3],), "Y_out": (event.Y_out[..., :3],)})
        return replace(event, in_graph=parts) if event.queries.start else event

    layers = tuple((narrowed(event),) for event in recording.events)
    with pytest.raises(
        ValueError, match=r"module 'event 5' reads tokens of width 3 into ones of width 5.*gradient_norm"
    ):
        similarity(replace(recording, layers=layers), target)
