"""Explainers by removal written out mask by mask, on values made by hand."""

from dataclasses import replace
from fractions import Fraction
from math import comb, factorial

import pytest
import torch

from xai.explainers.banzhaf import banzhaf
from xai.explainers.greedy import greedy
from xai.explainers.occlusion import occlusion
from xai.explainers.rise import rise
from xai.explainers.shapley import shapley
from xai.explainers.tis import tis
from xai.games.masks import independent, shapley_paired
from xai.recording.recording import Recording

from ..xai.games.handmade import Handmade, itself, rough
from .conftest import tape_of

TOKENS = 6
ALL = frozenset(range(TOKENS))
Matrix = list[list[Fraction]]


def values(seed: int) -> tuple[Handmade, list[dict[frozenset[int], float]]]:
    """A recording of two samples, and the value of every set of tokens of each."""
    value = rough(seed, TOKENS)
    sets = [frozenset(i for i in ALL if number >> i & 1) for number in range(2**TOKENS)]
    return Handmade(value, [[1] * TOKENS] * 2), [{S: value(S, sample) for S in sets} for sample in (0, 1)]


def solved(X: list[list[float]], y: list[float], weights: list[float]) -> list[float]:
    """Weighted least squares by the normal equations, eliminated in exact fractions."""
    k = len(X[0])
    rows = [(list(map(Fraction, x)), Fraction(t), Fraction(w)) for x, t, w in zip(X, y, weights, strict=True)]
    A: Matrix = [
        [sum((w * x[i] * x[j] for x, _, w in rows), Fraction()) for j in range(k)]
        + [sum((w * x[i] * t for x, t, w in rows), Fraction())]
        for i in range(k)
    ]
    for i in range(k):
        pivot = next(r for r in range(i, k) if A[r][i])
        A[i], A[pivot] = A[pivot], A[i]
        A[i] = [a / A[i][i] for a in A[i]]
        for r in range(k):
            if r != i:
                A[r] = [a - A[r][i] * b for a, b in zip(A[r], A[i], strict=True)]
    return [float(row[-1]) for row in A]


def check(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-11)


def test_occlusion() -> None:
    handmade, v = values(31)
    check(occlusion(handmade.recording, itself), [[own[ALL] - own[ALL - {i}] for i in range(TOKENS)] for own in v])


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_rise(p: float) -> None:
    """Σ over masks of f(M) M_i / Σ M_i (Petsiuk et al. 2018, eq. 6 with the number of masks for its expectation)."""
    handmade, v = values(32)
    masks = [frozenset(i for i in range(TOKENS) if row[i]) for row in independent(TOKENS, 40, p, seed=4).tolist()]
    expected = [[sum(own[M] for M in masks if i in M) / sum(i in M for M in masks) for i in range(TOKENS)] for own in v]
    check(rise(handmade.recording, itself, budget=40, p=p, seed=4), expected)


def kernel(n: int, size: int) -> Fraction:
    """Lundberg & Lee 2017, theorem 2."""
    return Fraction(n - 1, comb(n, size) * size * (n - size))


def test_the_kernel_is_that_of_permutations() -> None:
    """Least squares by the kernel over all sets are the means over all orders: for one player, by factorials."""
    handmade, v = values(33)
    sets = [S for S in v[0] if 0 < len(S) < TOKENS]
    expected = []
    for own in v:
        total = own[ALL] - own[frozenset()]
        X = [[float(i in S) - float(TOKENS - 1 in S) for i in range(TOKENS - 1)] for S in sets]
        y = [own[S] - own[frozenset()] - (TOKENS - 1 in S) * total for S in sets]
        first = solved(X, y, [float(kernel(TOKENS, len(S))) for S in sets])
        expected.append([*first, total - sum(first)])
        orders = sum(
            factorial(len(S)) * factorial(TOKENS - 1 - len(S)) / factorial(TOKENS) * (own[S | {2}] - own[S])
            for S in own
            if 2 not in S
        )
        assert abs(orders - first[2]) < 1e-9
    check(shapley(handmade.recording, itself, budget=2**TOKENS), expected)


def test_shapley_values_from_masks_that_the_kernel_draws() -> None:
    """Drawn in proportion to the kernel they count alike, and the sum of the values is kept."""
    handmade, v = values(34)
    masks = [frozenset(i for i in range(TOKENS) if row[i]) for row in shapley_paired(TOKENS, 38, seed=2).tolist()]
    expected = []
    for own in v:
        total = own[ALL] - own[frozenset()]
        X = [[float(i in S) - float(0 in S) for i in range(1, TOKENS)] for S in masks]  # another player is the last
        y = [own[S] - own[frozenset()] - (0 in S) * total for S in masks]
        others = solved(X, y, [1.0] * len(masks))
        expected.append([total - sum(others), *others])
    check(shapley(handmade.recording, itself, budget=40, seed=2), expected)


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_banzhaf(p: float) -> None:
    """All masks: the weighted means of what i adds. Drawn masks: least squares on one and the masks."""
    handmade, v = values(35)
    means = [
        [
            sum(p ** len(S) * (1 - p) ** (TOKENS - 1 - len(S)) * (own[S | {i}] - own[S]) for S in own if i not in S)
            for i in range(TOKENS)
        ]
        for own in v
    ]
    check(banzhaf(handmade.recording, itself, budget=2**TOKENS, p=p), means)
    masks = [frozenset(i for i in range(TOKENS) if row[i]) for row in independent(TOKENS, 30, p, seed=6).tolist()]
    X = [[1.0, *(float(i in M) for i in range(TOKENS))] for M in masks]
    drawn = [solved(X, [own[M] for M in masks], [1.0] * len(masks))[1:] for own in v]
    check(banzhaf(handmade.recording, itself, budget=30, p=p, seed=6), drawn)


def with_values(recording: Recording, seed: int) -> Recording:
    """A tape made by hand, of whose tokens each set has a value made by hand."""
    value = Handmade(rough(seed, 7), [[1] * recording.mask.shape[1]] * 2).recording
    return replace(recording, output=value.output, without=value.without)


def distance(x: list[float], y: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("order", ["single", "towers", "cross first", "joint after towers"])
@pytest.mark.parametrize("count", [4, 1000])
def test_tis(order: str, count: int) -> None:
    recording = with_values(tape_of(order, seed=36), 36)
    value, tokens = rough(36, 7), recording.mask.shape[1]
    expected = [[0.0] * tokens for _ in range(2)]
    for sample in range(2):
        for where in recording.modalities.values():
            own = list(range(where.start, where.stop))
            maps = []
            for event in recording.events:
                if event.queries.start <= own[0] and own[-1] < event.queries.stop:
                    Y = event.Y[sample].tolist()
                    maps += [[Y[t - event.queries.start][c] for t in own] for c in range(len(Y[0]))]
            k = min(count, len(maps))
            start = torch.randperm(len(maps), generator=torch.Generator().manual_seed(5))[:k].tolist()
            centres = [maps[c] for c in start] if k < len(maps) else maps
            for _ in range(20 if k < len(maps) else 0):
                nearest = [min(range(k), key=lambda c: distance(m, centres[c])) for m in maps]
                for c in range(k):
                    members = [m for m, n in zip(maps, nearest, strict=True) if n == c]
                    if members:
                        centres[c] = [sum(column) / len(members) for column in zip(*members, strict=True)]
            kept = round(len(own) / 2)
            masks = [{own[i] for i in sorted(range(len(own)), key=lambda i: -m[i])[:kept]} for m in centres]
            others = set(range(tokens)) - set(own)
            f = [value(frozenset(M | others), sample) for M in masks]
            for t in own:
                inside = [x for x, M in zip(f, masks, strict=True) if t in M]
                expected[sample][t] = sum(inside) / len(inside) if inside else sum(f) / len(f)
    check(tis(recording, itself, budget=count * len(recording.modalities), seed=5), expected)


@pytest.mark.parametrize(("insertion", "deletion"), [(1.0, 1.0), (2.0, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("budget", [TOKENS * (TOKENS + 1), TOKENS * (TOKENS + 1) - 2 * 3, 2 + 2 * 6 + 2 * 5, 1])
def test_greedy(insertion: float, deletion: float, budget: int) -> None:
    """42 runs end the search; without the 6 of the step of three it stops there; then after two steps, and after one."""
    handmade, v = values(37)
    expected = []
    for own in v:

        def F(S: frozenset[int], own: dict[frozenset[int], float] = own) -> float:
            return insertion * own[S] + deletion * (1 - own[ALL - S])

        S, order, gains, spent = frozenset[int](), [], [], 2
        while len(S) < TOKENS:
            cost = 2 * len(ALL - S) if len(ALL - S) > 1 else 0
            if order and spent + cost > budget:
                break
            spent += cost
            last = {r: F(S | {r}) - F(S) for r in ALL - S}
            best = max(sorted(last), key=lambda r, last=last: last[r])
            S, order, gains = S | {best}, [*order, best], [*gains, last[best]]
        rest = sorted(ALL - S, key=lambda r: -last[r])
        order, gains = [*order, *rest], [*gains, *(last[r] for r in rest)]
        scores = [0.0] * TOKENS
        spread = [pooled(gains, k) for k in range(TOKENS)]
        for k, token in enumerate(order):
            scores[token] = spread[k] + 1e-3 * max(map(abs, spread)) * ((TOKENS - 1) / 2 - k) / TOKENS
        expected.append(scores)
    check(greedy(handmade.recording, itself, budget, insertion, deletion), expected)


def pooled(gains: list[float], k: int) -> float:
    """Isotonic regression by its formula of minima and maxima, falling."""
    means = [[sum(gains[i : j + 1]) / (j + 1 - i) for j in range(k, len(gains))] for i in range(k + 1)]
    return min(max(row) for row in means)
