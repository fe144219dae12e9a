"""Ranks of tokens by relevance, with ties broken without bias: by expectation, or by noise that belongs to the sample."""

from collections.abc import Sequence

import torch
from torch import Tensor


def expected_hits(relevance: Tensor, truth: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    """How much of `truth` [..., n] lies on the k [...] most relevant valid tokens, [...]; k may be a fraction.

    Ties share the places they stand for: the mean over all ways to break them. k beyond the valid tokens means all.
    """
    k = torch.minimum(k, valid.sum(dim=-1))
    ranked = relevance.masked_fill(~valid, -torch.inf)
    descending = ranked.sort(dim=-1, descending=True).values
    lowest = (k.ceil().long() - 1).clamp(min=0)[..., None].expand(*ranked.shape[:-1], 1)
    threshold = descending.gather(-1, lowest)
    above, tied = ranked > threshold, (ranked == threshold) & valid
    places = (k - above.sum(dim=-1)) / tied.sum(dim=-1).clamp(min=1)
    return (truth * above).sum(dim=-1) + places * (truth * tied).sum(dim=-1)


def removal_rank(relevance: Tensor, removable: Tensor, noise: Tensor) -> Tensor:
    """The place of each token when the most relevant goes first, [..., T]; tokens that are not removable come last.

    Equal relevance goes by `noise`, integers [..., T] that are drawn without looking at the tokens.
    """
    first = noise.argsort(dim=-1).expand(relevance.shape)
    shuffled = relevance.masked_fill(~removable, -torch.inf).gather(-1, first)
    order = first.gather(-1, shuffled.argsort(dim=-1, descending=True, stable=True))
    places = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    return torch.empty_like(order).scatter(-1, order, places)


def token_noise(samples: Tensor, tokens: int, seed: int = 0) -> Tensor:
    """Integers [B, tokens] that depend on seed, sample id [B] and position alone, whatever else is in the batch."""
    position = torch.arange(tokens, device=samples.device)
    return _mix(_mix(_mix(torch.as_tensor(seed, device=samples.device)) + samples.long())[:, None] + position)


def random_relevance(samples: Tensor, tokens: int, seeds: Sequence[int]) -> Tensor:
    """Uniform scores in [0, 1), [seeds, B, tokens]: the floor of a table is the mean of the figures over the seeds."""
    drawn = torch.stack([token_noise(samples, tokens, seed) for seed in seeds])
    return _shift(_mix(drawn), 40).float() / 2**24


def mean_floor(values: Tensor, methods: int) -> Tensor:
    """Figures [methods + seeds, ...] to [methods + 1, ...], with the mean over the seeds last."""
    return torch.cat([values[:methods], values[methods:].mean(dim=0, keepdim=True)])


def _mix(x: Tensor) -> Tensor:
    """splitmix64 (Steele et al. 2014) on int64, whose products wrap."""
    x = x - 0x61C8864680B583EB  # plus the golden ratio, as a signed number
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shifts zeros in from the left, also for negative numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
