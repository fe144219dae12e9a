"""What each operation of a forward pass is for the rules: one with a rule, or several of them in other words."""

from functools import partial
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xai.lrp.mode import Mode, Probabilities, is_live
from xai.lrp.propagation import Kind


class Ruling(Mode):
    """Lays rules into the graph: a method for each operation, by its name."""

    def _add(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        if alpha != 1:
            b = self._mul(b, alpha) if is_live(b) else b * alpha
        run = partial(torch.add, a, b)
        if is_live(a) and is_live(b):
            return self._ruled("add", "add", run, a, b)
        live, constant = (a, b) if is_live(a) else (b, a)
        kind: Kind = "add" if self.stage == "embedding" else "shift"
        return self._ruled(kind, "add", run, live, _tensor(constant, live))

    def _sub(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        if not is_live(b):
            return self._add(a, -b, alpha=alpha)
        if not is_live(a):
            return self._add(a, self._ruled("one_to_one", "neg", partial(torch.neg, b), b), alpha=alpha)
        if self.stage == "target":
            return torch.sub(a, b, alpha=alpha)
        mean = self.of(b).mean
        if mean is not None and mean[0]() is a and alpha == 1:
            return self._ruled("centre", "sub", partial(torch.sub, a, b), a, axes=mean[1])
        raise self._error("sub", "takes one live tensor from another, which has no rule for relevance")

    def _rsub(self, a: Any, b: Any) -> Tensor:
        return self._sub(b, a)

    def _mul(self, a: Any, b: Any) -> Tensor:
        run = partial(torch.mul, a, b)
        if not (is_live(a) and is_live(b)):
            live, constant = (a, b) if is_live(a) else (b, a)
            return self._ruled("scale", "mul", run, live, _tensor(constant, live))
        for live, held in ((a, b), (b, a)):
            if self.of(held).spread or self.of(held).routing:  # of a norm, or of an expert: taken as a constant
                return self._ruled("scale", "mul", partial(torch.mul, live, self._held(held)), live, held.detach())
        if self.stage == "target" or self._is_gate(a, b):
            return self._ruled("gate", "mul", run, a, b)
        raise self._error("mul", "multiplies two live tensors, which has no rule for relevance")

    def _is_gate(self, a: Tensor, b: Tensor) -> bool:
        """Two projections, one of them activated, as in SwiGLU; x * sigmoid(x) is an activation of x and no gate."""
        parts = self.of(a).projection, self.of(b).projection
        return None not in parts and parts[0] is not parts[1]

    def _div(self, a: Any, b: Any) -> Tensor:
        """A live divisor is a norm, taken as a constant."""
        if not is_live(a):
            raise self._error("div", "divides by a live tensor, which has no rule for relevance")
        y = self._ruled("scale", "div", partial(torch.div, a, self._held(b)), a, 1 / _tensor(b, a).detach())
        return self._known(y, routing=True) if self.of(a).routing else y

    def _held(self, value: Any) -> Any:
        """What is taken as a constant: gradients, where the graph has them, go through it all the same."""
        return value.detach() if is_live(value) and self.alone else value

    def _matmul(self, a: Tensor, b: Tensor) -> Tensor:
        run = partial(torch.matmul, a, b)
        if is_live(a) and is_live(b):
            self.stage = "blocks" if self.stage != "target" else self.stage
            attention = self.of(a).attention
            if attention is None:
                return self._ruled("product", "matmul", run, a, b)
            attention.mix = True
            return self._ruled("mixing", "matmul", run, a, b)
        if is_live(a):
            return self._ruled("linear", "matmul", run, a, b.mT, None)
        if a.dim() > 2:  # learned queries, heads apart
            return self._matmul(b.mT, a.mT).mT
        raise self._error("matmul", "has a constant on the left, which has no rule for relevance")

    def _linear(self, name: str, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if is_live(weight):
            raise self._error("linear", "has a live weight, which has no rule for relevance")
        y = self._ruled("linear", name, lambda: func(x.contiguous(), weight, bias), x, weight, bias)
        return self._known(y, projection=object(), attention=self.of(x).attention)  # of heads that are mixed

    def _addmm(self, bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """A linear layer, as GPT-2 writes it."""
        if is_live(bias) or is_live(weight) or (beta, alpha) != (1, 1):
            raise self._error("addmm", "has a live weight or bias, or scales them, which has no rule for relevance")
        return self._ruled("linear", "addmm", partial(torch.addmm, bias, x, weight), x, weight.mT, bias)

    def _baddbmm(self, bias: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """Scores with what is added to them, as BLOOM writes them."""
        added = self._mul(bias, beta) if is_live(bias) else bias * beta
        return self._add(self._mul(self._matmul(batch1, batch2), alpha), added)

    def _index_add(self, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
        """A sum with what is put to some places, such as the tokens of an expert, and zeros at the others."""
        if alpha != 1 or len(index.unique()) < len(index):
            raise self._error("index_add", "scales, or adds twice to one place, for which there is no rule")
        x = x.clone()
        return self._add(x, torch.zeros_like(x).index_add(dim, index, source))

    def _grouped_mm(self, name: str, func: Any, x: Tensor, weight: Tensor, offs: Tensor, **more: Any) -> Tensor:
        """A linear layer for each group of rows, that of their expert; `offs` are the ends of the groups."""
        counts = offs.diff(prepend=offs.new_zeros(1)).tolist()
        known = x.dim() == 2 and sum(counts) == len(x) and all(value is None for value in more.values())
        if is_live(weight) or not known:
            raise self._error(name, "has a live weight, a bias, or rows of no group, for which there is no rule")
        groups = zip(func(x, weight, offs=offs).split(counts), x.split(counts), weight.mT, strict=True)
        parts = [self._ruled("linear", name, part.clone, rows, own, None) for part, rows, own in groups]
        return self._known(torch.cat(parts), projection=object())

    def _topk(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The weights of a mixture's experts: constants in what they weigh, so that nothing comes back to the router."""
        if self.of(x).attention is None:
            raise self._error("topk", "is of no probabilities; it has no rule for relevance")
        largest = func(x, *args, **kwargs)
        self._known(largest[0], routing=True)
        return largest

    def _convolution(
        self,
        name: str,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """That of pixels to patches, where relevance goes on to them, has a rule of its own."""
        padding = 0 if padding == "valid" else padding
        if is_live(weight) or padding == "same" or input.dim() != 4:
            raise self._error(name, "has a live weight, padding 'same' or no batch, for which there is no rule")
        kind: Kind = "pixels" if self.stage == "pixels" else "convolution"
        self.stage = "embedding" if self.stage == "pixels" else self.stage
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._ruled(kind, name, partial(func, input, weight, bias, **options), input, weight, bias, **options)

    def _share(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = args[0] if args else kwargs.get("dim", kwargs.get("axis"))
        axes = range(x.dim()) if given is None else (given,) if isinstance(given, int) else given
        axes = tuple(axis % x.dim() for axis in axes)
        divisor = prod(x.shape[axis] for axis in axes) if name == "mean" else 1
        y = self._ruled("share", name, partial(func, x, *args, **kwargs), x, axes=axes, divisor=divisor)
        return self._known(y, mean=(ref(x), axes)) if name == "mean" and y.dim() == x.dim() else y

    def _avg_pool2d(
        self,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        """The mean over the cells under each, which are no other's."""
        down, across = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        rest = input.shape[-2] % down + input.shape[-1] % across
        apart = stride in (None, kernel_size, (down, across)) and padding in (0, (0, 0)) and not rest
        if not apart or divisor_override is not None:
            raise self._error("avg_pool2d", "has overlapping or padded cells, for which there is no rule")
        rows, columns = input.shape[-2] // down, input.shape[-1] // across
        cells = input.unflatten(-1, (columns, across)).unflatten(-3, (rows, down))
        return self._share("mean", torch.mean, cells, (-3, -1))

    def _adaptive_avg_pool(self, name: str, func: Any, input: Tensor, output_size: Any) -> Tensor:
        """The mean over all cells."""
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
        if any(size != 1 for size in sizes):
            raise self._error(name, "pools to more than one cell, for which there is no rule")
        return self._share("mean", torch.mean, input, tuple(range(-int(name[-2]), 0)), keepdim=True)

    def _einsum(self, equation: str, *operands: Any) -> Tensor:
        """A stack of linear maps, as of queries and the vectors of relative positions, which are constants."""
        operands = tuple(tree_leaves(operands))
        parts, arrow, out = equation.replace(" ", "").partition("->")
        letters = parts.split(",")
        if len(operands) == 2 and not is_live(operands[0]):
            operands, letters = operands[::-1], letters[::-1]
        known = "." not in equation and arrow and all(len(set(part)) == len(part) for part in (*letters, out))
        if len(operands) != 2 or is_live(operands[1]) or not known or (set(letters[0]) ^ set(letters[1])) - set(out):
            raise self._error(
                "einsum", "is no product with a constant, written letter by letter; it has no rule for relevance"
            )
        x, w = letters
        both, summed = [a for a in x if a in w and a in out], [a for a in x if a in w and a not in out]
        alone = [[a for a in part if a not in other] for part, other in ((x, w), (w, x))]
        size = dict(zip(x + w, (*operands[0].shape, *operands[1].shape), strict=True))
        left, right = (
            tensor.permute([part.index(a) for a in (*both, *own, *summed)]).reshape(
                [size[a] for a in both] + [prod(size[a] for a in own), prod(size[a] for a in summed)]
            )
            for tensor, part, own in zip(operands, letters, alone, strict=True)
        )
        y = self._ruled("linear", "einsum", partial(torch.matmul, left, right.mT), left, right, None)
        order = [*both, *alone[0], *alone[1]]
        return y.reshape([size[a] for a in order]).permute([order.index(a) for a in out])

    def _softmax(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        axis = args[0] if args else kwargs["dim"]
        probabilities = Probabilities()
        run = partial(func, x, *args, **kwargs)
        y = self._ruled("softmax", name, run, x, axis=axis, probabilities=probabilities)
        return self._known(y, attention=probabilities)

    def _norm(self, name: str, func: Any, input: Tensor, normalized_shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        run = partial(func, input, normalized_shape, *args, **kwargs)
        names = ("weight", "bias", "eps") if name == "layer_norm" else ("weight", "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        eps = given.get("eps", 1e-5)
        axes = tuple(range(-len(normalized_shape), 0))
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        return self._ruled("norm", name, run, input, given.get("weight"), given.get("bias"), axes=axes, eps=eps)

    def _one_to_one(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self._ruled("one_to_one", name, partial(func, x, *args, **kwargs), x)
        known = self.of(x)
        return self._known(y, spread=name == "rsqrt", projection=known.projection, attention=known.attention)


def _tensor(constant: Any, like: Tensor) -> Tensor:
    return constant if isinstance(constant, Tensor) else like.new_tensor(constant)
