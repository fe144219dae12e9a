"""What masks and values say of pairs of players: least squares on a polynomial of second degree, in float64.

The columns that are fitted are 1, x_i and x_i x_j with x = (M - p) / √(p (1 - p)): orthonormal where each player stays with
probability p, so that what is left out of them changes no coefficient of those that are in.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xai.games.masks import weights_of

STRENGTHS = 30  # of ridge regression that are tried, in units of the largest squared singular value
STRONGEST, WEAKEST = 1e2, 1e-6


class Interactions(NamedTuple):
    """f(M) ≈ φ₀ + Σ φ_i M_i + Σ_{i<j} φ_ij M_i M_j, for W rows: φ_i [n, W], and φ_ij [n, n, W], the same for ij and ji."""

    alone: Float[Tensor, "n W"]
    together: Float[Tensor, "n n W"]


def banzhaf_pairs(
    masks: Bool[Tensor, "K n"],
    values: Float[Tensor, "K W"],
    pairs: Int[Tensor, "P 2"],
    p: float,
    drawn: bool,
) -> Interactions:
    """Estimates weighted Banzhaf interactions, E[f(M, i, j) - f(M, i) - f(M, j) + f(M)], from masks of all players.

    Args:
        masks: drawn with every player there with probability p, or each once.
        values: of each mask, for W rows.
        pairs: the players whose interactions are fitted; those of other pairs are 0.
        p: the probability.
        drawn: whether the masks were drawn. Ridge regression then holds the noise down, its strength by generalised
            cross-validation; it is needed where there are fewer masks than pairs. If not, the fit is exact.
    """
    x, weights = _standard(masks, p), weights_of(masks, p, drawn)
    design = torch.cat([torch.ones_like(weights)[:, None], x, x[:, pairs[:, 0]] * x[:, pairs[:, 1]]], dim=1)
    design, mean = design * weights.sqrt()[:, None], (weights[:, None] * values).sum(dim=0)
    aim = (values - mean) * weights.sqrt()[:, None]
    if drawn:
        U, S, Vh = torch.linalg.svd(design, full_matrices=False)
        found = Vh.mT @ _shrunk(S, U.mT @ aim, aim.square().sum(dim=0), len(masks))
    else:
        found = design.mT @ aim
    players, rows = masks.shape[1], values.shape[1]
    together = values.new_zeros(players, players, rows)
    together[pairs[:, 0], pairs[:, 1]] = together[pairs[:, 1], pairs[:, 0]] = found[1 + players :]
    return _of_masks(found[1 : 1 + players], together, p)


def crossed_pairs(
    first: Bool[Tensor, "K a"],
    second: Bool[Tensor, "L b"],
    values: Float[Tensor, "K L"],
    p: float,
    drawn: tuple[bool, bool],
) -> Interactions:
    """Estimates the interactions of two sides' players, a + b together, from values of each mask of one with each of the other.

    Args:
        first: masks of one side's players, drawn or each once.
        second: masks of the other's.
        values: of each with each.
        p: the probability that a player stays.
        drawn: of each side, as of `banzhaf_pairs`.
    """
    sides = []
    for masks, by_chance in zip((first, second), drawn, strict=True):
        weights = weights_of(masks, p, by_chance)
        sides.append((torch.cat([torch.ones_like(weights)[:, None], _standard(masks, p)], dim=1), weights))
    (U, u), (V, v) = sides
    aim = (values - u @ values @ v) * u.sqrt()[:, None] * v.sqrt()
    U, V = U * u.sqrt()[:, None], V * v.sqrt()[:, None]
    if any(drawn):
        A, S, B = torch.linalg.svd(U, full_matrices=False)
        E, T, F = torch.linalg.svd(V, full_matrices=False)
        z = A.mT @ aim @ E
        shrunk = _shrunk(torch.outer(S, T).flatten(), z.flatten()[:, None], aim.square().sum()[None], aim.numel())
        found = B.mT @ shrunk.view_as(z) @ F
    else:
        found = U.mT @ aim @ V
    a, players = first.shape[1], first.shape[1] + second.shape[1]
    together = values.new_zeros(players, players, 1)
    together[:a, a:, 0], together[a:, :a, 0] = found[1:, 1:], found[1:, 1:].mT
    return _of_masks(torch.cat([found[1:, 0], found[0, 1:]])[:, None], together, p)


def _standard(masks: Tensor, p: float) -> Float[Tensor, "K n"]:
    return (masks.double() - p) / (p * (1 - p)) ** 0.5


def _shrunk(
    S: Float[Tensor, " r"], z: Float[Tensor, "r W"], total: Float[Tensor, " W"], count: int
) -> Float[Tensor, "r W"]:
    """Ridge regression in the basis of singular vectors, S and z the values and the aim in it, strength by cross-validation."""
    span = torch.logspace(0, 1, STRENGTHS, base=WEAKEST / STRONGEST, dtype=torch.float64, device=S.device)
    strengths = STRONGEST * S.max() ** 2 * span
    kept = S**2 / (S**2 + strengths[:, None])  # [strengths, r]
    inside = ((1 - kept[..., None]) * z).square().sum(dim=1)
    outside = (total - z.square().sum(dim=0)).clamp(min=0)
    left = (count - kept.sum(dim=1)).clamp(min=1e-9)[:, None]
    best = ((inside + outside) / left**2).argmin(dim=0)  # [W]
    return (S[:, None] / (S**2 + strengths[best, None]).mT) * z


def _of_masks(single: Float[Tensor, "n W"], double: Float[Tensor, "n n W"], p: float) -> Interactions:
    """From the coefficients of x_i and x_i x_j to those of M_i and M_i M_j."""
    together = double / (p * (1 - p))
    return Interactions(single / (p * (1 - p)) ** 0.5 - p * together.sum(dim=1), together)
