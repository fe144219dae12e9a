"""What masks and values say of the players: estimates by least squares and means, and their standard errors, in float64."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.games.masks import weights_of

MORE = "give a larger budget, or squares of patches (block) that are fewer"


def mean_credits(masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"]) -> Float[Tensor, "n W"]:
    """Computes the mean value of the masks in which a player stays; of one that never does that of all masks."""
    there = masks.double()
    overall = values.mean(dim=0)
    return (there.mT @ (values - overall)) / there.sum(dim=0).clamp(min=1)[:, None] + overall


def mean_errors(masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"]) -> Float[Tensor, "n W"]:
    """Estimates the standard errors of `mean_credits`, of masks that were drawn independently.

    Raises:
        ValueError: a player stays in fewer than two masks.
    """
    there = masks.double()
    count = there.sum(dim=0)[:, None]
    if (count < 2).any():
        raise ValueError(
            f"{len(masks)} masks, in which a player stays fewer than twice, show no standard errors; {MORE}"
        )
    apart = values[:, None] - mean_credits(masks, values)  # [K, n, W]
    return ((there[..., None] * apart**2).sum(dim=0) / (count * (count - 1))).sqrt()


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
    count = masks.shape[1]
    size, total, design, y = _summing(masks, values)
    if not len(design):
        return (total / count).expand(count, -1)
    weights = torch.ones(len(design), dtype=torch.float64, device=design.device)
    if not sampled:
        weights = 1 / (size * (count - size)) / torch.exp(_log_choose(count, size))
    root = weights.sqrt()[:, None]
    first = torch.linalg.lstsq(design * root, y * root, driver="gelsd").solution if count > 1 else y[:0]
    return torch.cat([first, total[None] - first.sum(dim=0, keepdim=True)])


def shapley_errors(masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"]) -> Float[Tensor, "n W"]:
    """Estimates the standard errors of `shapley_credits`, of masks drawn by the kernel, each followed by its complement.

    A mask and its complement are one draw: they say the difference of their values.

    Args:
        masks: with those in which all and none stay before the others.
        values: of each mask, for W rows.

    Returns:
        [n, W].

    Raises:
        ValueError: as `_left_out`.
    """
    _, _, design, y = _summing(masks, values)
    influence = _left_out(design[0::2], (y[0::2] - y[1::2]) / 2)
    return torch.cat([influence, influence.sum(dim=0, keepdim=True)]).square().sum(dim=1).sqrt()


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
    root = weights_of(masks, p, drawn).sqrt()[:, None]
    design = torch.cat([torch.ones_like(root), masks.double()], dim=1)
    return torch.linalg.lstsq(design * root, values * root, driver="gelsd").solution[1:]


def banzhaf_errors(masks: Bool[Tensor, "K n"], values: Float[Tensor, "K W"]) -> Float[Tensor, "n W"]:
    """Estimates the standard errors of `banzhaf_credits`, [n, W], of masks that were drawn; raises as `_left_out`."""
    design = torch.cat([torch.ones_like(values[:, :1]), masks.double()], dim=1)
    return _left_out(design, values)[1:].square().sum(dim=1).sqrt()


def _summing(masks: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The regression for values that sum to f(all) - f(none): the last player is the total less all others.

    Returns the sizes [k] of the masks in between, the total [W], the design [k, n - 1] and what it must give [k, W].
    """
    count, size = masks.shape[1], masks.sum(dim=1)
    whole, empty = values[size == count][0], values[size == 0][0]
    between = (size > 0) & (size < count)
    there, total = masks[between].double(), whole - empty
    last = there[:, -1:]
    return size[between].double(), total, there[:, :-1] - last, values[between] - empty - last * total


def _left_out(design: Float[Tensor, "G k"], y: Float[Tensor, "G W"]) -> Float[Tensor, "k G W"]:
    """Returns by how much each draw, left out, would move the least squares: a sandwich with leave-one-out residuals.

    Raises:
        ValueError: so few draws that one alone decides on something.

    Source:
        MacKinnon & White 1985, HC3.
    """
    if len(design) > design.shape[1] and torch.linalg.matrix_rank(design) == design.shape[1]:
        inverse = torch.linalg.pinv(design)  # [k, G]
        left = 1 - (design * inverse.mT).sum(dim=1, keepdim=True)
        if (left > 1e-6).all():
            return inverse[..., None] * ((y - design @ (inverse @ y)) / left)
    raise ValueError(f"{len(design)} draws for {design.shape[1]} numbers show no standard errors; {MORE}")


def _log_choose(n: int, k: Tensor) -> Tensor:
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
