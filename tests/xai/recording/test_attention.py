"""Attention written out is torch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai.recording.attention import scaled_dot_product, softmax
from xai.recording.record import record

from ..toys import adapter_of, model_of


def qkv(key_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 5, 8), (2, key_heads, 6, 8), (2, key_heads, 6, 3))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, v


MASK = torch.tensor([[1, 1, 0, 1, 1, 1]] * 5).bool()
OPTIONS: list[dict[str, Any]] = [
    {},
    {"attn_mask": MASK},
    {"attn_mask": torch.randn(2, 1, 5, 6).double()},
    {"is_causal": True},
    {"scale": 0.3},
    {"attn_mask": torch.zeros(5, 6).double().masked_fill(~MASK, -torch.inf)},
    {"attn_mask": MASK & torch.tensor([[1], [0], [1], [1], [1]]).bool()},  # a query that may attend to nothing
]


@pytest.mark.parametrize("options", OPTIONS)
def test_scaled_dot_product(options: dict[str, Any]) -> None:
    seen: list[Tensor] = []
    q, k, v = qkv()
    torch.testing.assert_close(
        scaled_dot_product(lambda A, _: seen.append(A), q, k, v, **options),
        F.scaled_dot_product_attention(q, k, v, **options),
    )
    assert seen[0].shape == (2, 4, 5, 6)
    torch.testing.assert_close(seen[0] @ v, F.scaled_dot_product_attention(q, k, v, **options))


def test_grouped_queries() -> None:
    q, k, v = qkv(key_heads=2)
    seen: list[Tensor] = []
    values: list[Tensor] = []
    ours = scaled_dot_product(lambda A, qkv: seen.append(A) or values.append(qkv.value), q, k, v, enable_gqa=True)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert seen[0].shape == (2, 4, 5, 6)
    torch.testing.assert_close(seen[0] @ values[0], ours)  # each head with the values it reads


def test_one_head_of_keys_for_all_queries() -> None:
    q, k, v = qkv(key_heads=1)
    seen: list[Any] = []
    ours = scaled_dot_product(lambda A, qkv: seen.append((A, qkv)), q, k, v)
    torch.testing.assert_close(
        ours, F.scaled_dot_product_attention(q, k.expand(-1, 4, -1, -1), v.expand(-1, 4, -1, -1))
    )
    A, found = seen[0]
    assert found.value.shape == (2, 4, 6, 3) and found.key.shape == (2, 4, 6, 8)
    torch.testing.assert_close(A @ found.value, ours)


def test_a_query_without_keys_has_no_gradient_of_nan() -> None:
    scores = torch.tensor([[1.0, 2.0], [-torch.inf, -torch.inf]], requires_grad=True)
    probabilities = softmax(scores)
    assert not probabilities[1].any()
    probabilities.pow(2).sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_half_precision_has_single_precision_probabilities() -> None:
    seen: list[Tensor] = []
    q, k, v = (t.bfloat16() for t in qkv())
    assert scaled_dot_product(lambda A, _: seen.append(A), q, k, v).dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32


CALLS: list[dict[str, Any]] = [
    {},
    {"key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]).bool()},
    {"attn_mask": torch.ones(5, 5).triu(1).bool()},
    {"attn_mask": torch.randn(4, 5, 5).double(), "need_weights": False},
    {"attn_mask": torch.ones(5, 5).triu(1).bool(), "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1]] * 2).bool()},
    {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True, "need_weights": False},
    {"average_attn_weights": False},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 7, "vdim": 5}])
def test_multi_head_attention(call: dict[str, Any], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64, **options).eval()
    inputs = [
        torch.randn(2, 5, size, dtype=torch.float64) for size in (8, options.get("kdim", 8), options.get("vdim", 8))
    ]
    model = model_of(lambda x: attention(x, *inputs[1:], **call)[0], attention=attention)
    with torch.no_grad():
        expected, weights = attention(*inputs, **call)
    with record(model, adapter_of("attention")) as recorder:
        found = model(inputs[0])
    torch.testing.assert_close(found.detach(), expected)
    qkv, A = recorder.recording.events[0].qkv, recorder.recording.events[0].A
    assert qkv is not None and qkv.projection is attention.out_proj.weight
    mixed = (A @ qkv.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(F.linear(mixed, qkv.projection, attention.out_proj.bias).detach(), expected)
    if weights is not None:
        torch.testing.assert_close(A.detach() if weights.dim() == 4 else A.mean(1).detach(), weights)
