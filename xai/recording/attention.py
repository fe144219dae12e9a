"""Attention written out, so that its probabilities are tensors of the graph.

Each function stands in for torch's own of the same arguments and passes the probabilities [B, H, q, k] and what they
come from to `see`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xai.recording.event import QKV
from xai.recording.hooks import shape_alone

See = Callable[[Tensor, QKV | None], None]
Change = Callable[[Tensor], Tensor]  # of the scores before the softmax, masks added
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def scaled_dot_product(
    see: See,
    query: Tensor,  # [B, H, q, D]
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    change: Change | None = None,
) -> Tensor:
    """F.scaled_dot_product_attention, its scores changed; a query that may attend to nothing gets zeros.

    Raises ValueError on dropout.
    """
    _refuse_dropout(dropout_p)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, dim=-3) for t in (key, value))
    axes = query.shape[:-2]
    same = key.shape[:-2] == value.shape[:-2] == axes
    if not same and key.dim() == query.dim() and torch.broadcast_shapes(axes, key.shape[:-2]) == axes:
        key, value = (t.expand(*query.shape[:-2], -1, -1) for t in (key, value))  # one head of keys for all queries
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores[0, 0], dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None:
        hides = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hides else scores + attn_mask
    scores = scores if change is None else change(scores)
    masked = is_causal or attn_mask is not None or change is not None
    probabilities = softmax(scores, masked)
    see(probabilities, QKV(query, key, value))
    return (probabilities if probabilities.dtype == value.dtype else probabilities.to(value.dtype)) @ value


def softmax(scores: Tensor, masked: bool = True) -> Tensor:
    """Over the last axis, at least in single precision; zeros where all scores are -inf, of `masked` ones."""
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if not masked:
        return scores.softmax(dim=-1)
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(nothing, 0).softmax(dim=-1).masked_fill(nothing, 0)


def multi_head(see: See, *args: Any, change: Change | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """F.multi_head_attention_forward, its scores changed.

    Raises ValueError on `bias_k`, `add_zero_attn`, static keys and inputs without a batch axis.
    """
    call = _multi_head_call(args, kwargs)
    heads, batch = call["num_heads"], call["query"].shape[1]
    q, k, v = (
        t.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)  # [q, B, D] to [B, H, q, D / H]
        for t in _projected(call)
    )
    seen: list[Tensor] = []
    dropout = call["dropout_p"] if call["training"] else 0.0
    mask = _merged_mask(call, batch, heads)
    mixed = scaled_dot_product(lambda A, _: seen.append(A), q, k, v, mask, dropout, change=change)
    see(seen[0], QKV(q, k, v, call["out_proj_weight"], call["out_proj_bias"]))
    out = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), call["out_proj_weight"], call["out_proj_bias"])
    if not call["need_weights"]:
        return out, None
    return out, seen[0].mean(1) if call["average_attn_weights"] else seen[0]


def shape_of_scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *_: Any,
    **__: Any,
) -> Tensor:
    """The probabilities of F.scaled_dot_product_attention, of which only the shape [B, H, q, k] is said; raises as ours."""
    _refuse_dropout(dropout_p)
    return _map_shape(query, (*query.shape[:-1], key.shape[-2]))


def shape_of_multi_head(*args: Any, **kwargs: Any) -> Tensor:
    """The probabilities of F.multi_head_attention_forward, of which only the shape is said; raises as `multi_head`."""
    call = _multi_head_call(args, kwargs)
    query, key = call["query"], call["key"]  # [q, B, D]
    return _map_shape(query, (query.shape[1], call["num_heads"], query.shape[0], key.shape[0]))


def _map_shape(query: Tensor, shape: tuple[int, ...]) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)  # that of `softmax`
    return shape_alone(shape, dtype, query.device)


def _multi_head_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of F.multi_head_attention_forward by name; raises ValueError for those that no explainer can take."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    _refuse(bound.arguments)
    return bound.arguments


def _refuse_dropout(probability: float) -> None:
    if probability:
        raise ValueError(f"attention dropout is {probability} in evaluation mode; switch it off to explain the model")


def _refuse(call: dict[str, Any]) -> None:
    for name in ("bias_k", "bias_v", "static_k", "static_v"):
        if call[name] is not None:
            raise ValueError(f"nn.MultiheadAttention with {name} adds keys that are no tokens; it cannot be explained")
    if call["add_zero_attn"]:
        raise ValueError("nn.MultiheadAttention with add_zero_attn adds a key that is no token; it cannot be explained")
    if call["query"].dim() != 3:
        raise ValueError("nn.MultiheadAttention was called without a batch axis; give inputs of shape [B, tokens, D]")


def _projected(call: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    if call["use_separate_proj_weight"]:
        weights = [call[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = call["in_proj_weight"].chunk(3)
    biases = [None] * 3 if call["in_proj_bias"] is None else call["in_proj_bias"].chunk(3)
    inputs = (call["query"], call["key"], call["value"])
    q, k, v = (F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True))
    return q, k, v


def _merged_mask(call: dict[str, Any], batch: int, heads: int) -> Tensor | None:
    """Both masks as one to be added; in nn.MultiheadAttention True means: must not be attended to."""
    attention, padding = call["attn_mask"], call["key_padding_mask"]
    if attention is not None and attention.dim() == 3:
        attention = attention.unflatten(0, (batch, heads))
    padding = None if padding is None else padding[:, None, None]
    masks = [_added(mask, call["query"].dtype) for mask in (attention, padding) if mask is not None]
    return sum(masks[1:], masks[0]) if masks else None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
