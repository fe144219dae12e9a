"""Ranks tokens by relevance, with ties broken without bias: by expectation, or by noise that belongs to the sample."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def expected_hits(
    relevance: Float[Tensor, "... n"], truth: Float[Tensor, "..."], k: Float[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Returns how much of the truth lies on the k most relevant tokens.

    Ties share the places they stand for: the mean over all ways to break them.

    Args:
        relevance: [..., n].
        truth: [..., n], what each token counts.
        k: [...], may be a fraction; beyond the valid tokens it means all.
        valid: [..., n], the tokens that take part.

    Returns:
        [...].

    Example:
        >>> import torch
        >>> from xai.metrics.ranking import expected_hits
        >>> relevance, truth = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])
        >>> expected_hits(relevance, truth, torch.tensor(2.0), truth >= 0).item()
        1.5
    """
    k = torch.minimum(k, valid.sum(dim=-1))
    ranked = relevance.masked_fill(~valid, -torch.inf)
    descending = ranked.sort(dim=-1, descending=True).values
    lowest = (k.ceil().long() - 1).clamp(min=0)[..., None].expand(*ranked.shape[:-1], 1)
    threshold = descending.gather(-1, lowest)
    above, tied = ranked > threshold, (ranked == threshold) & valid
    places = (k - above.sum(dim=-1)) / tied.sum(dim=-1).clamp(min=1)
    return (truth * above).sum(dim=-1) + places * (truth * tied).sum(dim=-1)


def removal_rank(
    relevance: Float[Tensor, "*methods B T"], removable: Bool[Tensor, "B T"], noise: Int[Tensor, "B T"]
) -> Int[Tensor, "*methods B T"]:
    """Returns the place of each token in the order of removal, the most relevant first.

    Args:
        relevance: [..., B, T].
        removable: [B, T]; other tokens come last.
        noise: [B, T], drawn without looking at the tokens, as by `token_noise`: equal relevance goes by it.

    Returns:
        [..., B, T], from 0.

    Example:
        >>> import torch
        >>> from xai.metrics.ranking import removal_rank, token_noise
        >>> relevance = torch.tensor([[0.2, 0.9, 0.5]])
        >>> removal_rank(relevance, relevance > 0, token_noise(torch.tensor([0]), 3)).tolist()
        [[2, 0, 1]]
    """
    first = noise.argsort(dim=-1).expand(relevance.shape)
    shuffled = relevance.masked_fill(~removable, -torch.inf).gather(-1, first)
    order = first.gather(-1, shuffled.argsort(dim=-1, descending=True, stable=True))
    places = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    return torch.empty_like(order).scatter(-1, order, places)


def token_noise(samples: Int[Tensor, " B"], tokens: int, seed: int = 0) -> Int[Tensor, "B T"]:
    """Draws integers that depend on seed, sample and position alone, whatever else is in the batch.

    Args:
        samples: [B], the samples' ids.
        tokens: how many positions a sample has.
        seed: of the draw.

    Returns:
        [B, tokens].

    Source:
        splitmix64, Steele et al. 2014; `torch.Generator` would draw by batch.

    Example:
        >>> import torch
        >>> from xai.metrics.ranking import token_noise
        >>> torch.equal(token_noise(torch.tensor([7, 8]), 5)[1:], token_noise(torch.tensor([8]), 5))
        True
    """
    position = torch.arange(tokens, device=samples.device)
    return _mix(_mix(_mix(torch.as_tensor(seed, device=samples.device)) + samples.long())[:, None] + position)


def random_relevance(samples: Int[Tensor, " B"], tokens: int, seeds: Sequence[int]) -> Float[Tensor, "seeds B T"]:
    """Draws uniform scores: the baseline of a table is the mean of their metrics over the seeds.

    Args:
        samples: [B], the samples' ids.
        tokens: how many tokens a sample has.
        seeds: one for each set of scores.

    Returns:
        [seeds, B, tokens], in [0, 1), as `token_noise` whatever else is in the batch.

    Example:
        >>> import torch
        >>> from xai.metrics.ranking import random_relevance
        >>> random_relevance(torch.tensor([7, 8]), 5, seeds=range(3)).shape
        torch.Size([3, 2, 5])
    """
    noise = torch.stack([token_noise(samples, tokens, seed) for seed in seeds])
    return _shift(_mix(noise), 40).float() / 2**24


def mean_baseline(values: Float[Tensor, "rows ..."], methods: int) -> Float[Tensor, "_ ..."]:
    """Replaces the metrics of the random scores by their mean.

    Args:
        values: [methods + seeds, ...].
        methods: how many of the rows, from the first, are of methods.

    Returns:
        [methods + 1, ...], the mean over the seeds last.

    Example:
        >>> import torch
        >>> from xai.metrics.ranking import mean_baseline
        >>> mean_baseline(torch.tensor([0.5, 0.25, 0.75]), methods=1).tolist()
        [0.5, 0.5]
    """
    return torch.cat([values[:methods], values[methods:].mean(dim=0, keepdim=True)])


def _mix(x: Tensor) -> Tensor:
    """Mixes bits by splitmix64 (Steele et al. 2014) on int64, whose products wrap."""
    x = x - 0x61C8864680B583EB  # plus the golden ratio, as a signed number
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shifts zeros in from the left, also for negative numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
