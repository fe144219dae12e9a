"""Every explainer against its equations written out entry by entry, in blocks and loops and without the joint axis."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.genatt import genatt
from xai.explainers.interaction import interaction
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rollout import rollout
from xai.explainers.wra import wra
from xai.recording.event import Event, Gradient, Gradients
from xai.recording.recording import Recording
from xai.targets import Target

Matrix = list[list[float]]
BLOCKWISE = ["single", "towers", "co-attention", "cross first", "encoder-decoder", "self and cross at once"]
ORDERS = [*BLOCKWISE, "joint after towers"]


def eye(n: int) -> Matrix:
    return [[1.0 if i == j else 0.0 for j in range(n)] for i in range(n)]


def zeros(n: int, m: int) -> Matrix:
    return [[0.0] * m for _ in range(n)]


def dot(X: Matrix, Y: Matrix) -> Matrix:
    return [[sum(X[i][k] * Y[k][j] for k in range(len(Y))) for j in range(len(Y[0]))] for i in range(len(X))]


def plus(X: Matrix, Y: Matrix) -> Matrix:
    return [[x + y for x, y in zip(row, other, strict=True)] for row, other in zip(X, Y, strict=True)]


def flipped(X: Matrix) -> Matrix:
    return [list(column) for column in zip(*X, strict=True)]


def normalised(X: Matrix) -> Matrix:
    return [[x / sum(row) for x in row] if sum(row) else row for row in X]


def hat(X: Matrix) -> Matrix:
    """GenAtt eq. 8-9."""
    n = len(X)
    minus = [[X[i][j] - (1.0 if i == j else 0.0) for j in range(n)] for i in range(n)]
    return plus(normalised(minus), eye(n))


def positive_evidence(event: Event, gradient: Gradient, sample: int) -> Matrix:
    A, dA = event.A[sample].tolist(), gradient.A[sample].tolist()
    heads, q, k = len(A), len(A[0]), len(A[0][0])
    return [[sum(max(dA[h][i][j] * A[h][i][j], 0) for h in range(heads)) / heads for j in range(k)] for i in range(q)]


def head_mean(event: Event, sample: int) -> Matrix:
    A = event.A[sample].tolist()
    return [[sum(head[i][j] for head in A) / len(A) for j in range(len(A[0][0]))] for i in range(len(A[0]))]


def positive_mean(X: Tensor, dX: Tensor) -> float:
    products = [max(x * dx, 0) for x, dx in zip(X.flatten().tolist(), dX.flatten().tolist(), strict=True)]
    return sum(products) / len(products)


def slow_wra(
    recording: Recording, gradients: Gradients, sample: int, equal: bool = False
) -> Iterator[tuple[Event, Matrix, Matrix]]:
    """Yields each event with R before its layer and after it (WRA eq. 1-15)."""
    R = eye(recording.mask.shape[1])
    for layer in recording.layers:
        before = [row[:] for row in R]
        for event in layer:
            gradient = gradients[event]
            a = positive_mean(event.Y[sample], gradient.Y[sample])
            b = positive_mean(event.Y_out[sample], gradient.Y_out[sample])
            alpha = 0.5 if equal or a + b == 0 else a / (a + b)
            for i, row in enumerate(positive_evidence(event, gradient, sample)):
                if sum(row) == 0:
                    continue
                mine = event.queries.start + i
                for t in range(len(R)):
                    mixed = sum(e / sum(row) * before[event.keys.start + j][t] for j, e in enumerate(row))
                    R[mine][t] = alpha * before[mine][t] + (1 - alpha) * mixed
            yield event, before, R


def slow_genatt(
    recording: Recording, gradients: Gradients, sample: int, normalise: bool, aggregate: bool, within: bool
) -> Matrix:
    """GenAtt eq. 5-11 on blocks R[s, q] of two modalities."""
    spans = {(where.start, where.stop): name for name, where in recording.modalities.items()}
    sizes = {name: where.stop - where.start for name, where in recording.modalities.items()}
    R = {(s, q): eye(n) if s == q else zeros(n, m) for s, n in sizes.items() for q, m in sizes.items()}
    asked = {(spans[e.queries.start, e.queries.stop], spans[e.keys.start, e.keys.stop]) for e in recording.events}
    N = hat if normalise else (lambda X: X)
    for layer in recording.layers:
        before = dict(R)
        for event in layer:
            s, q = (spans[where.start, where.stop] for where in (event.queries, event.keys))
            if not gradients[event].reached:
                continue
            evidence = positive_evidence(event, gradients[event], sample)
            new = {}
            if s == q:
                for other in sizes:
                    new[s, other] = dot(evidence, before[s, other])
            else:
                cross = dot(dot(flipped(N(before[s, s])), evidence), N(before[q, q]))
                new[s, q] = cross if within else evidence
                if (q, s) in asked:
                    new[s, s] = dot(evidence, before[q, s])
            for block, value in new.items():
                R[block] = plus(R[block], value) if aggregate else value
    return [[x for q in sizes for x in R[s, q][i]] for s in sizes for i in range(sizes[s])]


def slow_rollout(recording: Recording, sample: int, normalise: bool) -> Matrix:
    """GenAtt eq. 12 and its cross rule, on the whole axis cut into blocks."""
    T = recording.mask.shape[1]
    R = eye(T)
    cut = lambda X, s, k: [row[k] for row in X[s]]  # noqa: E731
    for layer in recording.layers:
        before = [row[:] for row in R]
        for event in layer:
            s, k, A = event.queries, event.keys, head_mean(event, sample)
            if s == k:
                M = plus(eye(len(A)), A)
                block = dot(normalised(M) if normalise else M, cut(before, s, s))
            else:
                block = dot(dot(flipped(cut(before, s, s)), A), cut(before, k, k))
            for i, row in enumerate(block):
                R[s.start + i][k] = row
    return R


def each_sample(recording: Recording, slow: Callable[[int], Matrix]) -> Tensor:
    return torch.tensor([slow(sample) for sample in range(len(recording.mask))], dtype=torch.float64)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("equal", [False, True])
def test_wra(make_tape: Any, target: Any, order: str, equal: bool) -> None:
    recording = make_tape(order, seed=1)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Matrix:
        *_, (_, _, R) = slow_wra(recording, gradients, sample, equal)
        return R

    torch.testing.assert_close(wra(recording, target, equal_weights=equal), each_sample(recording, slow))


@pytest.mark.parametrize("order", BLOCKWISE)
@pytest.mark.parametrize("unreached", [0, 1])
@pytest.mark.parametrize(
    "options", [{}, {"normalise": False}, {"aggregate": False}, {"self_in_cross": False}], ids=lambda o: "".join(o)
)
def test_genatt(make_tape: Any, target: Any, order: str, unreached: int, options: dict[str, bool]) -> None:
    recording = make_tape(order, seed=2, unreached=unreached)
    aggregate = options.get("aggregate", True)
    arguments = (options.get("normalise", True) and aggregate, aggregate, options.get("self_in_cross", True))
    expected = each_sample(
        recording, lambda sample: slow_genatt(recording, recording.gradients(target), sample, *arguments)
    )
    torch.testing.assert_close(genatt(recording, target, **options), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("normalise", [False, True])
def test_rollout(make_tape: Any, target: Any, order: str, normalise: bool) -> None:
    recording = make_tape(order, seed=3)
    expected = each_sample(recording, lambda sample: slow_rollout(recording, sample, normalise))
    torch.testing.assert_close(rollout(recording, target, normalise=normalise), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_interaction(make_tape: Any, target: Any, order: str) -> None:
    recording = make_tape(order, seed=4)
    gradients = recording.gradients(target)

    def slow(sample: int) -> Matrix:
        T = recording.mask.shape[1]
        M = zeros(T, T)
        for event, before, _ in slow_wra(recording, gradients, sample):
            for i, row in enumerate(positive_evidence(event, gradients[event], sample)):
                for j, e in enumerate(row):
                    for v in range(T):
                        for w in range(T):
                            M[v][w] += before[event.queries.start + i][v] * e * before[event.keys.start + j][w]
        return M

    M = each_sample(recording, slow)
    torch.testing.assert_close(interaction(recording, target), M)
    torch.testing.assert_close(interaction(recording, target, mutual=True), M * M.transpose(1, 2))


@pytest.mark.parametrize("order", ORDERS)
def test_raw_attention_and_gradcam(make_tape: Any, target: Any, order: str) -> None:
    recording = make_tape(order, seed=5)
    gradients = recording.gradients(target)
    T = recording.mask.shape[1]
    raw, cam = torch.zeros(len(recording.mask), T, T), torch.zeros(len(recording.mask), T, T)
    raw, cam = raw.double(), cam.double()
    for sample in range(len(recording.mask)):
        for event in recording.events:
            heads = event.A.shape[1]
            weights = [
                sum(gradients[event].A[sample, h].flatten().tolist()) / event.A[0, 0].numel() for h in range(heads)
            ]
            for i, row in enumerate(head_mean(event, sample)):
                for j, value in enumerate(row):
                    where = (sample, event.queries.start + i, event.keys.start + j)
                    raw[where] = value
                    cam[where] = max(sum(w * event.A[sample, h, i, j].item() for h, w in enumerate(weights)) / heads, 0)
    torch.testing.assert_close(raw_attention(recording, target), raw)
    torch.testing.assert_close(attention_gradcam(recording, target), cam)


def test_gradcam_over_the_row_that_is_read(make_tape: Any, target: Any) -> None:
    recording, target = make_tape("single", seed=6), Target("second of a", target, ("a", 1))
    event = recording.layers[-1][0]
    gradient = recording.gradients(target)[event].A
    expected = []
    for sample in range(len(recording.mask)):
        weights = [(gradient[sample, h, 1, 0] + gradient[sample, h, 1, 2]) / 2 for h in range(2)]  # token 1 is read
        expected.append(sum(w * event.A[sample, h] for h, w in enumerate(weights)) / 2)
    torch.testing.assert_close(
        attention_gradcam(recording, target, over="row"), torch.stack(expected).clamp(min=0).detach()
    )
