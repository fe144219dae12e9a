"""The figures of evaluation against their definitions, entry by entry."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from xai.metrics.detection import otsu
from xai.metrics.localisation import average_precision, mass_accuracy, rank_accuracy
from xai.metrics.perturbation import Perturbed, perturb
from xai.metrics.protocols import area, named
from xai.metrics.removal import drop
from xai.metrics.sanity import rank_correlation
from xai.metrics.statistics import holm, mean_interval

SEEDS = range(8)


def scores(seed: int, *shape: int, levels: int = 4) -> Tensor:
    """Few different values, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, levels, shape, generator=generator).double()


def shares(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randint(0, 3, shape, generator=generator).double() / 2


def orders(relevance: list[float]) -> list[tuple[int, ...]]:
    """All orders of the tokens in which relevance never rises."""
    tokens = range(len(relevance))
    return [o for o in permutations(tokens) if all(relevance[a] >= relevance[b] for a, b in pairwise(o))]


def top(order: tuple[int, ...], truth: list[float], k: float) -> float:
    found = 0.0
    for place, token in enumerate(order):
        found += truth[token] * min(max(k - place, 0.0), 1.0)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_localisation(seed: int) -> None:
    relevance, truth = scores(seed, 3, 6), shares(seed, 3, 6)
    truth[:, 0] = 1
    valid = shares(seed + 50, 3, 6) > 0
    valid[:, 0] = True
    mass, rank = (f(relevance, truth, valid) for f in (mass_accuracy, rank_accuracy))
    for b in range(3):
        kept = [t for t in range(6) if valid[b, t]]
        r, m = [float(relevance[b, t]) for t in kept], [float(truth[b, t]) for t in kept]
        positive = sum(max(x, 0) for x in r)
        if positive:
            assert float(mass[b]) == pytest.approx(sum(max(x, 0) * y for x, y in zip(r, m, strict=True)) / positive)
        else:
            assert mass[b].isnan()
        k, ways = sum(m), orders(r)
        assert float(rank[b]) == pytest.approx(sum(top(o, m, k) for o in ways) / len(ways) / k)


def test_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=25)
    rng = np.random.default_rng(0)
    means = sorted(sum(values[i] for i in row) / 25 for row in rng.integers(0, 25, (4000, 25)).tolist())
    found = mean_interval(values, resamples=4000)
    assert float(found.low) == pytest.approx(np.quantile(means, 0.025))
    assert float(found.high) == pytest.approx(np.quantile(means, 0.975))


@pytest.mark.parametrize("seed", SEEDS)
def test_holm(seed: int) -> None:
    """The adjusted p is the smallest level at which the step-down procedure rejects."""
    p = np.random.default_rng(seed).beta(0.3, 3, size=6)
    adjusted = holm(p)

    def rejected(level: float) -> set[int]:
        found: set[int] = set()
        for step, index in enumerate(sorted(range(6), key=lambda i: p[i])):
            if p[index] * (6 - step) > level:
                break
            found.add(index)
        return found

    for level in (0.001, 0.01, 0.05, 0.2, 0.7, 0.99):
        assert rejected(level) == {i for i in range(6) if adjusted[i] <= level}


class Toy:
    """A bag of words with a nonlinear answer: every subset of tokens gives another one."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randn(4, 9, 5, generator=generator, dtype=torch.float64)
        self.head = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        self.label = torch.randint(0, 3, (4,), generator=generator)

    def answer(self, tokens: Tensor) -> Tensor:
        return (tokens.sum(1).tanh() @ self.head).softmax(-1)

    def predict(self, batch: Perturbed) -> dict[str, Tensor]:
        answer = self.answer(drop(self.tokens[batch.rows], batch.keep, batch.length))
        label = self.label[batch.rows]
        return {"accuracy": answer.argmax(1) == label, "probability": answer.gather(1, label[:, None])[:, 0]}


@pytest.mark.parametrize("name", ["wra", "genatt", "transatt", "recommended"])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_perturbation(seed: int, name: str) -> None:
    """Against a loop that sorts, cuts and runs each sample alone. The first token is special, the last of some padding."""
    toy, protocol = Toy(seed), named(name, "text")
    generator = torch.Generator().manual_seed(200 + seed)
    relevance = torch.randn(3, 4, 9, generator=generator)
    sizes = [9, 6, 4, 9]
    mask = torch.arange(9) < torch.tensor(sizes)[:, None]
    removable = mask & (torch.arange(9) > 0)
    found = perturb(relevance, removable, torch.arange(4), toy.predict, protocol, mask=mask, batch_size=7)
    assert found["accuracy"].shape == (3, 2, 4, len(protocol.shares))
    areas = {figure: area(curves, protocol.shares) for figure, curves in found.items()}
    for m in range(3):
        for b in range(4):
            tokens = list(range(1, sizes[b]))
            descending = sorted(tokens, key=lambda t: -float(relevance[m, b, t]))
            for d, order in enumerate((descending, descending[::-1])):
                hits, sure = [], []
                for share in protocol.shares:
                    kept = int((1 - share) * len(tokens))
                    left = [0, *sorted(order[len(tokens) - kept :])]
                    answer = toy.answer(toy.tokens[b, left][None])[0]
                    hits.append(float(int(answer.argmax()) == int(toy.label[b])))
                    sure.append(float(answer[toy.label[b]]))
                assert found["accuracy"][m, d, b].tolist() == hits
                assert found["probability"][m, d, b].tolist() == pytest.approx(sure)
                assert float(areas["accuracy"][m, d, b]) == pytest.approx(trapezoids(protocol.shares, hits))
                assert float(areas["probability"][m, d, b]) == pytest.approx(trapezoids(protocol.shares, sure))


def trapezoids(x: tuple[float, ...], y: list[float]) -> float:
    total = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(zip(x, y, strict=True)))
    return total / (x[-1] - x[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision(seed: int) -> None:
    values, labels, valid = scores(seed, 3, 12), shares(seed, 3, 12) > 0, shares(seed + 60, 3, 12) > 0
    labels[:, 0] = valid[:, 0] = True
    found = average_precision(values, labels, valid)
    for b in range(3):
        kept = [i for i in range(12) if valid[b, i]]
        total, recall, expected = sum(bool(labels[b, i]) for i in kept), 0.0, 0.0
        for threshold in sorted({float(values[b, i]) for i in kept}, reverse=True):
            chosen = [bool(labels[b, i]) for i in kept if values[b, i] >= threshold]
            precision, reached = sum(chosen) / len(chosen), sum(chosen) / total
            expected, recall = expected + (reached - recall) * precision, reached
        assert float(found[b]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_otsu(seed: int) -> None:
    """The threshold with the least variance within both parts."""
    rows = torch.cat([scores(seed, 2, 15, levels=8), torch.randn(2, 15, generator=torch.Generator().manual_seed(seed))])
    found = otsu(rows)
    for b in range(4):
        row = rows[b].tolist()

        def within(threshold: float, row: list[float] = row) -> float:
            parts = [x for x in row if x > threshold], [x for x in row if x <= threshold]
            return sum(sum((x - sum(part) / len(part)) ** 2 for x in part) for part in parts)

        best = min(sorted(set(row))[:-1], key=within)
        assert within(best) == pytest.approx(
            within(max(x for x, f in zip(row, found[b].tolist(), strict=True) if not f))
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_rank_correlation(seed: int) -> None:
    a, b, valid = scores(seed, 3, 9), scores(seed + 70, 3, 9), shares(seed + 80, 3, 9) > 0
    valid[:, :4] = True
    a[:, 0], a[:, 1], b[:, 2], b[:, 3] = 7, -7, 7, -7
    found = rank_correlation(a, b, valid)
    for i in range(3):
        ranks = []
        for x in (a[i][valid[i]].tolist(), b[i][valid[i]].tolist()):
            ranks.append([sum(y < z for y in x) + (sum(y == z for y in x) - 1) / 2 for z in x])
        assert float(found[i]) == pytest.approx(np.corrcoef(ranks)[0, 1])
