"""The rules of AttnLRP (Achtibat et al., ICML 2024), CP-LRP (Ali et al., ICML 2022) and LibraGrad, as modified gradients.

What is sent back is G = R / y, so that the relevance of any tensor is its value times what came back to it. The epsilon
rule of a linear layer is then the gradient itself, and only what is not linear differs from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from xai.lrp.propagation import Operands, Operation, Rules, Way, as_autograd, of_all

Linear = Callable[[Tensor, Tensor], Tensor]


@as_autograd()
def linear(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The epsilon rule without epsilon: inputs and bias share R as they add up to y."""
    return Way(lambda G, weight: (G.contiguous() @ weight, None, G), operands[1:2])


@dataclass(frozen=True)
class Gamma:
    """The gamma rule: contributions of the result's own sign count 1 + gamma times, for y of both signs."""

    gamma: float

    def __call__(self, y: Tensor, operands: Operands, operation: Operation) -> Way:
        return of_all(self.back)(y, operands, operation)

    def back(self, G: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
        """What goes back to the operands for G at y."""
        _, _, bias = operands
        b = torch.zeros_like(y) if bias is None else bias.expand_as(y)
        return self.shared(G, y, operands, b, lambda x, w: x @ w.mT, lambda S, w: S @ w)

    def shared(self, G: Tensor, y: Tensor, operands: Operands, b: Tensor, forth: Linear, back: Linear) -> Operands:
        """The rule for y = forth(x, weight) + b, linear in x and in its weight, and the transpose of `forth`."""
        x, weight, _ = operands
        assert x is not None and weight is not None
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        x_up, x_down = x.clamp(min=0), x.clamp(max=0)
        rises = forth(x_up, up) + forth(x_down, down) + b.clamp(min=0)
        falls = forth(x_up, down) + forth(x_down, up) + b.clamp(max=0)
        positive = y > 0
        z = y + self.gamma * torch.where(positive, rises, falls)
        S = torch.where(z == 0, 0, G * y / z)
        S_up, S_down = S * positive, S * ~positive
        favoured = torch.where(x > 0, back(S_up, up) + back(S_down, down), back(S_up, down) + back(S_down, up))
        return back(S, weight) + self.gamma * favoured, None, S * (1 + self.gamma * ((b > 0) == positive))


class GammaOfConvolution(Gamma):
    """The same, as a convolution is a linear layer at each place."""

    def back(self, G: Tensor, y: Tensor, operands: Operands, operation: Operation) -> Operands:
        x, weight, bias = operands
        assert x is not None and weight is not None
        b = torch.zeros_like(y) if bias is None else bias[:, None, None].expand_as(y)
        forth: Linear = partial(F.conv2d, **operation.options)
        back: Linear = lambda S, w: conv2d_input(x.shape, w, S, **operation.options)  # noqa: E731
        to_x, _, to_bias = self.shared(G, y, operands, b, forth, back)
        assert to_bias is not None
        return to_x, None, to_bias.sum(dim=(2, 3)) if bias is not None else None


@as_autograd()
def convolution(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """A linear layer at each place."""
    x, weight, _ = operands
    assert x is not None
    shape, options = x.shape, operation.options
    return Way(lambda G, weight: (conv2d_input(shape, weight, G, **options), None, G.sum(dim=(2, 3))), (weight,))


@as_autograd()
def add(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The epsilon rule of a sum, of constants too."""
    return Way(lambda G: (G, G))


@as_autograd()
def scale(y: Tensor, operands: Operands, operation: Operation) -> Way:
    return Way(lambda G, constant: (G * constant, None), operands[1:])


@as_autograd(1 / 2)
def product(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The uniform rule: both factors of a matrix product get half (AttnLRP prop. 3.3)."""
    return Way(lambda G, P, V: ((half := G / 2) @ V.mT, P.mT @ half), operands)


def values_only(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """Attention is a constant weight of the values, which get all (CP-LRP's AH rule)."""
    return Way(lambda G, P: (None, P.mT @ G), operands[:1], constants=(0,))


def both_wholly(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The gradient of a product: attention gets its own too, to be read there; it does not go on (`but_of_attention`)."""
    return Way(lambda G, P, V: (G @ V.mT, P.mT @ G), operands)


@as_autograd(1 / 2)
def gate(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The uniform rule by entries."""
    return Way(lambda G, a, b: (G * b / 2, G * a / 2), operands)


@as_autograd()
def share(y: Tensor, operands: Operands, operation: Operation) -> Way:
    (x,) = operands
    assert x is not None
    shape, axes, divisor = x.shape, operation.options["axes"], operation.options["divisor"]
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return Way(lambda G: (G.reshape(kept).expand(shape) / divisor,))


@as_autograd()
def softmax(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """x_i (R_i - s_i Σ R), the first-order Taylor rule (AttnLRP prop. 3.1); its constant term absorbs the rest."""
    axis = operation.options["axis"]
    if operation.name == "log_softmax":
        return Way(lambda G, y: (G - y.exp() * G.sum(axis, keepdim=True),), (y,))
    return Way(lambda G, y: (y * (G - (y * G).sum(axis, keepdim=True)),), (y,))


def but_of_attention(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """Nothing goes through an attention to queries and keys; through another softmax, as of a target, its gradient."""
    back, kept, _ = softmax(y, operands, operation)
    return Way(lambda G, y: (None,) if operation.options["probabilities"].mix else back(G, y), kept)


def norm(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """The spread is a constant, so that the norm is linear (CP-LRP's LN rule; AttnLRP prop. 3.4)."""
    x, weight, _ = operands
    assert x is not None
    axes, eps, centred = operation.options["axes"], operation.options["eps"], operation.name == "layer_norm"
    if centred:
        *_, inverse = torch.native_layer_norm(x, x.shape[axes[0] :], None, None, eps)
    else:
        inverse = (x.square().mean(axes, keepdim=True) + eps).rsqrt()

    def back(G: Tensor, inverse: Tensor, weight: Tensor | None) -> Operands:
        scaled = G * inverse
        if weight is not None:
            scaled *= weight
        if centred:
            scaled -= scaled.mean(axes, keepdim=True)
        return scaled, None, G

    return Way(back, (inverse, weight))


@as_autograd()
def centre(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """x - mean(x), which is linear."""
    axes = operation.options["axes"]
    return Way(lambda G: (G - G.mean(axes, keepdim=True),))


def one_to_one(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """R passes unchanged: G y / x (AttnLRP's identity rule). An x of 0, or too small to divide by, has none."""
    x, *others = operands
    assert x is not None
    return Way(lambda G, slope: (G * slope, *[None] * len(others)), ((y / x).nan_to_num_(0, 0, 0),))


ATTN_LRP = Rules(
    "AttnLRP",
    modified_gradient=True,
    tolerance=1e-3,
    linear=linear,
    pixels=convolution,
    convolution=convolution,
    add=add,
    shift=add,
    scale=scale,
    product=product,
    mixing=product,
    gate=gate,
    share=share,
    softmax=softmax,
    norm=norm,
    centre=centre,
    one_to_one=one_to_one,
    absorbing=frozenset({"softmax"}),
)
CP_LRP = replace(ATTN_LRP, name="CP-LRP", mixing=values_only)
# LibraGrad (Mehri, Baghshah & Pilehvar, CVPR 2025). To states it sends what CP-LRP does, and to attentions their gradient as
# well: read as relevance, that would be twice as much, so that this table is for gradients alone.
LIBRA = replace(CP_LRP, name="LibraGrad", mixing=both_wholly, softmax=but_of_attention)

Backward = Literal["autograd", "libra", "attn_lrp"]  # whose gradient: the model's own, or by a table


def rules_of(backward: Backward) -> Rules | None:
    """Returns the table of a backward pass, None for autograd's own; raises ValueError for another name.

    AttnLRP's keeps the gradient through attention and halves products.
    """
    known: dict[str, Rules | None] = {"autograd": None, "libra": LIBRA, "attn_lrp": ATTN_LRP}
    if backward not in known:
        raise ValueError(f"backward is {backward!r}; give one of {', '.join(get_args(Backward))}")
    return known[backward]


def with_gamma(rules: Rules, gamma: float, of_pixels: float = 0.0) -> Rules:
    """The same table with the gamma rule on linear layers, and with one of its own on that of pixels to patches.

    0 is the epsilon rule.
    """
    rules = replace(rules, linear=Gamma(gamma)) if gamma else rules
    return replace(rules, pixels=GammaOfConvolution(of_pixels)) if of_pixels else rules
