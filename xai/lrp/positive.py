"""The rules of Transformer Attribution (Chefer, Gur & Wolf, CVPR 2021): relevance itself is sent back.

R is the relevance of an operation's result. Sums are over all of a sample, whose axis is the first.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from xai.lrp.propagation import Operands, Operation, Rules, Way, of_all

Linear = Callable[[Tensor, Tensor], Tensor]


def divided(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0; the 1e-9 is that of the published code, added to negative b too."""
    return torch.where(b == 0, 0, a / (b + 1e-9))


@of_all
def linear(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """Of the contributions x_i w_ji, the positive ones share R_j (eq. 4); the bias has no part."""
    x, weight, *_ = operands
    assert x is not None and weight is not None
    # of a stack of weights, too
    return _positive(R, x, weight, lambda x, w: x @ w.mT, lambda S, w: S @ w), None, None


@of_all
def convolution(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """The same, as a convolution is a linear layer at each place."""
    x, weight, *_ = operands
    assert x is not None and weight is not None
    options = operation.options
    back: Linear = lambda S, w: conv2d_input(x.shape, w, S, **options)  # noqa: E731
    return _positive(R, x, weight, partial(F.conv2d, **options), back), None, None


@of_all
def add(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """Each entry of R is shared as its two terms are; then both shares are scaled to the magnitudes of their totals.

    With S_a, S_b the totals, a's share is scaled to |S_a| / (|S_a| + |S_b|) of R's total (unnumbered, after eq. 9).
    """
    a, b = operands
    assert a is not None and b is not None
    S = divided(R, y)
    shares = (a * S, b * S)
    totals = [_total(share) for share in shares]
    size = totals[0].abs() + totals[1].abs()
    to_a, to_b = (
        share * divided(divided(total.abs(), size) * _total(R), total)
        for share, total in zip(shares, totals, strict=True)
    )
    return to_a, to_b


@of_all
def product(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """y = P V: both factors get X ⊙ ∂y/∂X (R / y) (eq. 6), halved so that the total stays R's."""
    P, V = operands
    assert P is not None and V is not None
    S = divided(R, y) / 2
    return P * (S @ V.mT), V * (P.mT @ S)


@of_all
def gate(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """y = a b by entries: the product rule gives each factor half."""
    half = torch.where(y == 0, 0, R / 2)
    return half, half


@of_all
def share(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """A sum over axes is a linear layer of ones: each term gets its part of it."""
    (x,) = operands
    assert x is not None
    axes = operation.options["axes"]
    total = x.sum(dim=axes, keepdim=True)
    return (x * divided(R.reshape(total.shape), total),)


def unchanged(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """Softmax, norms, activations, scaling, adding a constant: the live operand gets all."""
    others = len(operands) - 1
    return Way(lambda R: (R, *[None] * others))


@of_all
def pixels(R: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
    """The z^B rule: L and H, the lowest and highest value of the image, bound what a pixel could have been."""
    x, weight, *_ = operands
    assert x is not None and weight is not None
    up, down, options = weight.clamp(min=0), weight.clamp(max=0), operation.options
    low, high = (bound.expand_as(x) for bound in (x.amin((1, 2, 3), True), x.amax((1, 2, 3), True)))
    Z = F.conv2d(x, weight, **options) - F.conv2d(low, up, **options) - F.conv2d(high, down, **options)
    S = R / (Z + 1e-9)
    back = [conv2d_input(x.shape, w, S, **options) for w in (weight, up, down)]
    return x * back[0] - low * back[1] - high * back[2], None, None


def _positive(R: Tensor, x: Tensor, weight: Tensor, forth: Linear, back: Linear) -> Tensor:
    """Of a map linear in x and in its weight, and its transpose."""
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    x_up, x_down = x.clamp(min=0), x.clamp(max=0)
    S = divided(R, forth(x_up, up) + forth(x_down, down))
    return x_up * back(S, up) + x_down * back(S, down)


def _total(x: Tensor) -> Tensor:
    return x.sum(dim=tuple(range(1, x.dim())), keepdim=True)


TRANSATT = Rules(
    "TransAtt",
    modified_gradient=False,
    tolerance=1e-3,
    linear=linear,
    pixels=pixels,
    convolution=convolution,
    add=add,
    shift=unchanged,
    scale=unchanged,
    product=product,
    mixing=product,
    gate=gate,
    share=share,
    softmax=unchanged,
    norm=unchanged,
    centre=unchanged,
    one_to_one=unchanged,
)
