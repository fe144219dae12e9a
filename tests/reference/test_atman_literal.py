"""AtMan written out number by number on a model of two attentions, whatever computes them and however they are named."""

from math import exp, log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xai import Adapter, Target, given, record
from xai.explainers.atman import atman

from ..xai.recording.test_places import placed
from ..xai.toys import TWO, adapter_of, blocks, model_of

Vector = list[float]
TOKENS = 5


def inputs() -> Tensor:
    """Of the first sample two tokens are alike."""
    x = torch.randn(2, TOKENS, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[0, 3] = 2 * x[0, 1] + 0.05 * x[0, 2]
    return x


def product(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def affine(layer: Any, x: Vector) -> Vector:
    return [product(row, x) + b for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def softmax(scores: Vector) -> Vector:
    parts = [exp(score - max(scores)) for score in scores]
    return [part / sum(parts) for part in parts]


def suppressed_row(scores: Vector, gone: set[int], factor: float) -> Vector:
    """Shifted by its least, those that are suppressed scaled."""
    shifted = [score - min(scores) for score in scores]
    return softmax([score * (1 - factor) if j in gone else score for j, score in enumerate(shifted)])


def log_probability(model: Any, x: list[Vector], label: int, gone: set[int], factor: float) -> float:
    for block in model.blocks:
        rows = [affine(block.qkv, token) for token in x]
        mixed = []
        for q in (row[:8] for row in rows):
            weights = suppressed_row([product(q, row[8:16]) / sqrt(8) for row in rows], gone, factor)
            mixed.append([sum(w * row[16 + c] for w, row in zip(weights, rows, strict=True)) for c in range(8)])
        x = [[a + b for a, b in zip(token, new, strict=True)] for token, new in zip(x, mixed, strict=True)]
    return log(softmax(affine(model.head, x[0]))[label])


def cosine(x: Vector, y: Vector) -> float:
    return product(x, y) / sqrt(product(x, x) * product(y, y))


def by_hand(model: Any, factor: float, likeness: float) -> Tensor:
    found = []
    for x in inputs().tolist():
        whole = log_probability(model, x, 1, set(), factor)
        groups = [{j for j in range(TOKENS) if j == i or cosine(x[i], x[j]) >= likeness} for i in range(TOKENS)]
        found.append([whole - log_probability(model, x, 1, group, factor) for group in groups])
    return torch.tensor(found, dtype=torch.float64)


KINDS = [(kind, way) for kind in ("sdpa", "F.softmax", "method") for way in ("table", "places")]


@pytest.mark.parametrize(("kind", "way"), [*KINDS, ("module", "table")])
@pytest.mark.parametrize(("factor", "likeness"), [(0.9, 0.7), (1.0, 1.0), (0.3, 0.7)])
def test_atman(kind: str, way: str, factor: float, likeness: float) -> None:
    model = blocks(kind).double()
    adapter: Adapter = TWO if way == "table" else placed(kind)
    with record(model, adapter) as recorder:
        model(inputs())
    found = atman(recorder.recording, given(1), factor, likeness)
    torch.testing.assert_close(found, by_hand(model, factor, likeness))
    if likeness < 1:
        assert found[0, 1] == found[0, 3] and len(set(found.flatten().tolist())) == 9  # the two that are alike


def test_without_a_probability_the_target_itself_is_looked_at() -> None:
    model = blocks().double()
    with record(model, TWO) as recorder:
        model(inputs())
    target = Target("log-probability", lambda logits: logits.log_softmax(dim=-1)[:, 1])
    torch.testing.assert_close(atman(recorder.recording, target), by_hand(model, 0.9, 0.7))


class Heads(nn.Module):
    """nn.MultiheadAttention with a mask, or the same in plain code with numbers for the mask."""

    def __init__(self, masked: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.attention, self.masked = nn.MultiheadAttention(8, 2, batch_first=True), masked
        nn.init.normal_(self.attention.in_proj_weight, std=0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        if self.masked == "module":
            return x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
        a = self.attention
        q, k, v = (
            t.unflatten(-1, (2, 4)).transpose(1, 2)
            for t in nn.functional.linear(x, a.in_proj_weight, a.in_proj_bias).chunk(3, dim=-1)
        )
        if self.masked == "causal":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.masked == "sdpa":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=~later)
        else:
            number = {"-inf": -torch.inf, "least": torch.finfo(x.dtype).min, "-1e4": -1e4}[self.masked]
            scores = q @ k.mT / 2 + torch.zeros(later.shape, dtype=x.dtype).masked_fill(later, number)
            mixed = scores.softmax(dim=-1) @ v
        return x + a.out_proj(mixed.transpose(1, 2).flatten(2))


def heads_by_hand(model: Heads, factor: float) -> Tensor:
    """What the fourth token says; it attends to those before it."""
    a, found = model.attention, []
    for x in inputs().tolist():
        rows = [
            [product(w, token) + b for w, b in zip(a.in_proj_weight.tolist(), a.in_proj_bias.tolist(), strict=True)]
            for token in x
        ]

        def output(gone: set[int], rows: list[Vector] = rows, x: list[Vector] = x) -> float:
            mixed = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                scores = [product(rows[3][:8][part], row[8:16][part]) / 2 for row in rows[:4]]
                weights = suppressed_row(scores, gone, factor)
                mixed += [
                    sum(w * row[16:][part][c] for w, row in zip(weights, rows[:4], strict=True)) for c in range(4)
                ]
            return x[3][0] + affine(a.out_proj, mixed)[0]

        found.append([output(set()) - output({i}) for i in range(TOKENS)])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("masked", ["module", "causal", "sdpa", "-inf", "least", "-1e4"])
def test_masked_keys_are_neither_suppressed_nor_the_least(masked: str) -> None:
    """However a model masks what comes later: the score of -10000 of a masked key is not the least of its row."""
    model = Heads(masked)
    wrapped = model_of(lambda x: model(x), heads=model)
    with record(wrapped, adapter_of("heads")) as recorder:
        wrapped(inputs())
    found = atman(recorder.recording, lambda x: x[:, 3, 0], 0.8, likeness=1.1)
    torch.testing.assert_close(found, heads_by_hand(model, 0.8))
    assert found[:, 4].abs().max() < 1e-12 and found[:, :4].all()
