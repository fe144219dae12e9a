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
        weights = 1 / (size[between] * (count - size[between])) / torch.exp(_log_choose(count, size[between]))
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
    k = k.double()
    return torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def ridge(
    masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"], expected: Float[Tensor, "n W"]
) -> Float[Tensor, "n W"]:
    """Estimates each player's effect around what is expected of it, and weighs it by that as far as the masks leave it open.

    Values are c M expected + M δ + a constant: c ≥ 0 by least squares, δ by ridge regression of the strength that generalised
    cross-validation chooses. Of n effects the masks tell as many as the regression has degrees of freedom, d.

    Args:
        masks: of the players.
        values: of each mask, for W rows.
        expected: of the players, for each row, at least 0, with mean 1.

    Returns:
        [n, W], (c expected + δ) expected^(1 - d / n).

    Source:
        Golub, Heath & Wahba 1979 for the strength.
    """
    design = masks.double() - masks.double().mean(dim=0)
    y = values - values.mean(dim=0)
    guess = design @ expected
    scale = ((guess * y).sum(dim=0) / (guess**2).sum(dim=0).clamp(min=1e-30)).clamp(min=0)
    left = y - scale * guess
    axes, sizes, players = torch.linalg.svd(design, full_matrices=False)  # [K, r], [r], [r, n]
    along, power = axes.mT @ left, sizes**2
    strengths = power.mean().clamp(min=1e-30) * torch.logspace(-3, 3, 25, dtype=torch.float64, device=y.device)
    kept = power[:, None] / (power[:, None] + strengths)  # [r, strengths]
    free = len(y) - 1 - kept.sum(dim=0)
    outside = (left**2).sum(dim=0) - (along**2).sum(dim=0)
    error = (
        outside.clamp(min=0)[:, None] + (((1 - kept)[:, :, None] * along[:, None]) ** 2).sum(dim=0).mT
    )  # [W, strengths]
    # A fit without a degree of freedom left has no error to compare by.
    best = torch.where(free > 0.5, error / free.clamp(min=0.5) ** 2, torch.inf).argmin(dim=1)
    shrunk = sizes[:, None] / (power[:, None] + strengths[best])  # [r, W]
    effects = scale * expected + players.mT @ (shrunk * along)
    told = kept.sum(dim=0)[best] / masks.shape[1]
    return effects * expected ** (1 - told).clamp(min=0)
