"""Masks, which say which players stay. Each kind draws by the number of players and a seed alone, whatever is in the batch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOST = 20  # players whose masks are told one by one


def every(players: int) -> Bool[Tensor, "masks n"]:
    """Returns all masks, 2^n, from that in which nobody stays to that in which all do."""
    if players > MOST:
        raise ValueError(f"{players} players have 2^{players} masks; give at most {MOST}")
    return (torch.arange(2**players)[:, None] >> torch.arange(players) & 1).bool()


def fits(players: int, runs: int) -> bool:
    """Returns whether some runs are enough for every mask of some players."""
    return players <= MOST and 2**players <= runs


def one_out(players: int) -> Bool[Tensor, "n n"]:
    """Returns masks in each of which one player is left out."""
    return ~torch.eye(players, dtype=torch.bool)


def with_whole(masks: Bool[Tensor, "K n"]) -> Bool[Tensor, "K1 n"]:
    """Returns masks with the one in which all stay before them."""
    return torch.cat([torch.ones_like(masks[:1]), masks])


def with_ends(masks: Bool[Tensor, "K n"]) -> Bool[Tensor, "K2 n"]:
    """Returns masks with those in which all and none stay before them."""
    return torch.cat([torch.ones_like(masks[:1]), torch.zeros_like(masks[:1]), masks])


def independent(players: int, count: int, p: float, seed: int) -> Bool[Tensor, "count n"]:
    """Draws masks in which each player stays with probability p.

    Args:
        players: how many.
        count: of masks.
        p: between 0 and 1.
        seed: of the draw.

    Raises:
        ValueError: p is not between 0 and 1.
    """
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; give a probability between 0 and 1")
    return torch.rand(count, players, generator=_generator(players, seed), dtype=torch.float64) < p


def weights_of(masks: Bool[Tensor, "K n"], p: float, drawn: bool) -> Float[Tensor, " K"]:
    """Returns how much each mask counts, sum 1: alike if drawn as by `independent`, by its probability if each is there once."""
    if drawn:
        return torch.full((len(masks),), 1 / len(masks), dtype=torch.float64, device=masks.device)
    size = masks.sum(dim=1).double()
    return p**size * (1 - p) ** (masks.shape[1] - size)


def paired(players: int, count: int, seed: int) -> Bool[Tensor, "count n"]:
    """Draws masks whose sizes run evenly from 1 to n - 1, each followed by its complement.

    A mask and its complement together have every player once, so that what all pairs share, the mean, says nothing of players;
    even sizes are what a curve of removal passes through.

    Args:
        players: at least 2.
        count: of masks, rounded down to pairs, at least one.
        seed: of the draw.

    Example:
        >>> from xai.games.masks import paired
        >>> masks = paired(4, 6, seed=0)
        >>> masks.sum(dim=1).tolist(), (masks[0::2] ^ masks[1::2]).all().item()
        ([1, 3, 2, 2, 3, 1], True)
    """
    pairs = max(1, count // 2)
    sizes = torch.linspace(1, players - 1, pairs, dtype=torch.float64).round().long()
    return _with_complements(_of_sizes(players, sizes, seed))


def shapley_paired(players: int, count: int, seed: int) -> Bool[Tensor, "count n"]:
    """Draws masks by the Shapley kernel, that is of size s in proportion to 1 / (s (n - s)), each followed by its complement.

    Args:
        players: at least 2.
        count: of masks, rounded down to pairs, at least one.
        seed: of the draw.
    """
    sizes = torch.multinomial(
        shapley_sizes(players), max(1, count // 2), replacement=True, generator=_generator(players, seed)
    )
    return _with_complements(_of_sizes(players, sizes + 1, seed))


def shapley_sizes(players: int) -> Float[Tensor, " sizes"]:
    """Returns the share of each size from 1 to n - 1 under the Shapley kernel, [n - 1]."""
    size = torch.arange(1, players, dtype=torch.float64)
    share = 1 / (size * (players - size))
    return share / share.sum()


def _of_sizes(players: int, sizes: Tensor, seed: int) -> Tensor:
    noise = torch.rand(len(sizes), players, generator=_generator(players, seed + 1), dtype=torch.float64)
    return noise.argsort(dim=1).argsort(dim=1) < sizes[:, None]


def _with_complements(masks: Tensor) -> Tensor:
    return torch.stack([masks, ~masks], dim=1).flatten(0, 1)


def _generator(players: int, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000_003 * seed + players)
