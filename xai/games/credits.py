"""What masks and values say of the players: estimates by least squares, in float64."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def shapley_credits(masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"], sampled: bool) -> Float[Tensor, "n W"]:
    """Estimates Shapley values, which sum to f(all) - f(none), by weighted least squares.

    Args:
        masks: with those in which all and none stay; those in between drawn by the Shapley kernel, or each once.
        values: of each mask, for W rows.
        sampled: whether the masks in between were drawn by the kernel; if not, they are weighted by it.

    Returns:
        [n, W]; the Shapley values themselves if every mask is there once.

    Source:
        Lundberg & Lee 2017, eq. 8 and theorem 2.
    """
    count, size = masks.shape[1], masks.sum(dim=1)
    whole, empty = values[size == count][0], values[size == 0][0]
    between = (size > 0) & (size < count)
    design, y = masks[between].double(), values[between] - empty
    total = whole - empty
    if not len(design):
        return (total / count).expand(count, -1)
    weights = torch.ones(len(design), dtype=torch.float64, device=design.device)
    if not sampled:
        s = size[between].double()
        weights = 1 / (s * (count - s)) / torch.exp(_log_choose(count, s))
    # The sum is kept by writing the last player as the total less all others.
    last = design[:, -1:]
    reduced, y = design[:, :-1] - last, y - last * total
    root = weights.sqrt()[:, None]
    first = torch.linalg.lstsq(reduced * root, y * root, driver="gelsd").solution if count > 1 else y[:0]
    return torch.cat([first, total[None] - first.sum(dim=0, keepdim=True)])


def banzhaf_credits(
    masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"], p: float, drawn: bool
) -> Float[Tensor, "n W"]:
    """Estimates weighted Banzhaf values by least squares on 1 and the masks.

    Args:
        masks: drawn with every player there with probability p, or each once.
        values: of each mask, for W rows.
        p: the probability.
        drawn: whether the masks were drawn; if not, each is weighted by its probability.

    Returns:
        [n, W]; the Banzhaf values themselves if every mask is there once.
    """
    count = masks.shape[1]
    weights = torch.ones(len(masks), dtype=torch.float64, device=masks.device)
    if not drawn:
        size = masks.sum(dim=1).double()
        weights = p**size * (1 - p) ** (count - size)
    design = torch.cat([torch.ones_like(weights)[:, None], masks.double()], dim=1)
    root = weights.sqrt()[:, None]
    return torch.linalg.lstsq(design * root, values * root, driver="gelsd").solution[1:]


def _log_choose(n: int, k: Tensor) -> Tensor:
    return torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
