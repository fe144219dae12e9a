"""The mode that lays rules into the graph of a forward pass. It is strict: an operation without rule is an error."""

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from xai.lrp.operations import ACTIVATIONS, DIVIDING, MOVES, RULED, name_of
from xai.lrp.propagation import Kind, Operation, Propagation

Stage = Literal["pixels", "embedding", "blocks", "target"]


class PropagationError(RuntimeError):
    """Relevance has no defined way through an operation, or is lost on it."""


class Ruling(TorchFunctionMode):
    """Gives every operation on live tensors, those with a gradient, its ways back.

    `stage` is where the pass is: from live "pixels" to patches by a convolution with a rule of its own; "embedding" them,
    where an added constant is no mask but a position and takes its share; "blocks", from the first product on; "target",
    the score of the outputs, where live tensors may be multiplied, and subtracted as gradients do it.
    """

    def __init__(self, propagation: Propagation, stage: Stage) -> None:
        super().__init__()
        self.propagation, self.stage = propagation, stage
        self.modules: list[str] = []  # those now running, the innermost last
        self.resting = 0  # how many of them are one operation
        self.attention = WeakIdKeyDictionary()  # what comes from a softmax
        self.changed = WeakIdKeyDictionary()  # in place, so that they no longer are what they were
        self.spreads = WeakIdKeyDictionary()  # what comes from a reciprocal root: a norm in plain code scales by it
        self.lengths = WeakIdKeyDictionary()  # norms of vectors, by which alone may be divided
        self.projected = WeakIdKeyDictionary()  # what comes from a projection -> which part of which one

    def hooks(self, model: nn.Module) -> Iterator[Any]:
        """Hooks that tell which module runs, and make one operation of an activation written in plain code."""
        for name, module in model.named_modules():
            whole = type(module).__name__ in ACTIVATIONS
            yield module.register_forward_pre_hook(self._entered(name, whole))
            yield module.register_forward_hook(self._left(whole))

    def _entered(self, name: str, whole: bool) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            self.modules.append(name)
            self.resting += whole

        return hook

    def _left(self, whole: bool) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            self.resting -= whole
            if whole:
                output = self._same_part(args[0], self._ruled("one_to_one", type(module).__name__, output, args[0]))
            if is_layer(self.modules[-1]):
                output = self._exits(output)
            self.modules.pop()
            return output

        return hook

    def _exits(self, output: Any) -> Any:
        """The same, marked for the audit: what happens to it inside its layer is not what leaves."""
        if is_live(output):
            return self._ruled("exit", "exit", output.view_as(output), output)
        return type(output)(map(self._exits, output)) if type(output) in (tuple, list) else output

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        live = [tensor for tensor in tree_leaves((*args, *kwargs.values())) if is_live(tensor)]
        if self.resting or not live:
            return func(*args, **kwargs)
        name, in_place = name_of(func)
        if any(tensor in self.changed for tensor in live):
            raise self._error(name, "reads a tensor after another operation has changed it in place")
        if any(tensor in self.lengths for tensor in live) and not (name == "div" and args[0] not in self.lengths):
            raise self._error(
                name, "takes the norm of a vector, by which one may divide alone; it has no rule for relevance"
            )
        if kwargs.get("inplace"):
            kwargs, in_place = {**kwargs, "inplace": False}, True
        elif in_place:
            func = _on_a_copy(func)
        result = self._dispatch(name, in_place, func, args, kwargs)
        if in_place:
            self.changed[args[0]] = True
        return result

    def _dispatch(self, name: str, in_place: bool, func: Any, args: tuple, kwargs: dict) -> Any:
        if name in MOVES:
            result = func(*args, **kwargs)
            for part in filter(is_live, tree_leaves((result,))) if args and _has(self.projected, args[0]) else ():
                self.projected[part] = object() if name in DIVIDING else self.projected[args[0]]
            return self._as_attention(result) if args and _has(self.attention, args[0]) else result
        if name in ("norm", "linalg_norm", "linalg_vector_norm"):
            length = func(*args, **kwargs)
            self.lengths[length] = True
            return length
        named = [key for key in ("input", "other", "mat2") if key in kwargs]
        args = (*args, *(kwargs[key] for key in named))
        kwargs = {key: value for key, value in kwargs.items() if key not in named}
        if name in ("add", "sub", "rsub", "mul", "div", "matmul", "addmm", "baddbmm", "avg_pool2d", "einsum"):
            return getattr(self, f"_{name}")(*args, **kwargs)
        if name in ("adaptive_avg_pool1d", "adaptive_avg_pool2d"):
            return self._adaptive_avg_pool(name, *args, **kwargs)
        if name in RULED:
            return getattr(self, f"_{RULED[name]}")(name, func, *args, **kwargs)
        if not in_place and name != "setitem":
            result = func(*args, **kwargs)
            if not any(map(is_live, tree_leaves((result,)))):
                return result  # a question, such as the size
        raise self._error(name, "has no rule for relevance")

    def _ruled(self, kind: Kind, name: str, y: Tensor, *operands: Tensor | None, **options: Any) -> Tensor:
        operation = Operation(kind, name, self.modules[-1] if self.modules else "", options)
        return self.propagation.ruled(operation, y, *operands)

    def _error(self, name: str, what: str) -> PropagationError:
        where = f"module {self.modules[-1]!r}" if self.modules and self.modules[-1] else f"the {self.stage}"
        return PropagationError(f"{name} in {where} {what}; explain this model by a method without LRP")

    def _as_attention(self, result: Any) -> Any:
        for tensor in filter(is_live, tree_leaves((result,))):
            self.attention[tensor] = True
        return result

    def _add(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        if alpha != 1:
            b = self._mul(b, alpha) if is_live(b) else b * alpha
        y = torch.add(a, b)
        if is_live(a) and is_live(b):
            return self._ruled("add", "add", y, a, b)
        live, constant = (a, b) if is_live(a) else (b, a)
        kind: Kind = "add" if self.stage == "embedding" else "shift"
        return self._ruled(kind, "add", y, live, _tensor(constant, live))

    def _sub(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        if not is_live(b):
            return self._add(a, -b, alpha=alpha)
        if not is_live(a):
            return self._add(a, self._ruled("one_to_one", "neg", -b, b), alpha=alpha)
        if self.stage == "target":
            return torch.sub(a, b, alpha=alpha)
        raise self._error("sub", "takes one live tensor from another, which has no rule for relevance")

    def _rsub(self, a: Any, b: Any) -> Tensor:
        return self._sub(b, a)

    def _mul(self, a: Any, b: Any) -> Tensor:
        y = torch.mul(a, b)
        if not (is_live(a) and is_live(b)):
            live, constant = (a, b) if is_live(a) else (b, a)
            return self._ruled("scale", "mul", y, live, _tensor(constant, live))
        for live, spread in ((a, b), (b, a)):
            if spread in self.spreads:  # of a norm, taken as a constant
                return self._ruled("scale", "mul", y, live, spread.detach())
        if self.stage == "target" or self._is_gate(a, b):
            return self._ruled("gate", "mul", y, a, b)
        raise self._error("mul", "multiplies two live tensors, which has no rule for relevance")

    def _is_gate(self, a: Tensor, b: Tensor) -> bool:
        """Two projections, one of them activated, as in SwiGLU; x * sigmoid(x) is an activation of x and no gate."""
        return a in self.projected and b in self.projected and self.projected[a] is not self.projected[b]

    def _same_part(self, x: Any, y: Tensor) -> Tensor:
        """y, which came entry by entry from x."""
        if _has(self.projected, x):
            self.projected[y] = self.projected[x]
        return y

    def _div(self, a: Any, b: Any) -> Tensor:
        """A live divisor is a norm, taken as a constant."""
        if not is_live(a):
            raise self._error("div", "divides by a live tensor, which has no rule for relevance")
        return self._ruled("scale", "div", torch.div(a, b), a, 1 / _tensor(b, a).detach())

    def _matmul(self, a: Tensor, b: Tensor) -> Tensor:
        y = torch.matmul(a, b)
        if is_live(a) and is_live(b):
            self.stage = "blocks" if self.stage != "target" else self.stage
            return self._ruled("mixing" if a in self.attention else "product", "matmul", y, a, b)
        if is_live(a):
            return self._ruled("linear", "matmul", y, a, b.mT, None)
        if a.dim() > 2:  # learned queries, heads apart
            return self._matmul(b.mT, a.mT).mT
        raise self._error("matmul", "has a constant on the left, which has no rule for relevance")

    def _linear(self, name: str, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if is_live(weight):
            raise self._error("linear", "has a live weight, which has no rule for relevance")
        y = self._ruled("linear", name, func(x, weight, bias), x, weight, bias)
        self.projected[y] = object()
        return self._as_attention(y) if x in self.attention else y  # heads that are mixed

    def _addmm(self, bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """A linear layer, as GPT-2 writes it."""
        if is_live(bias) or is_live(weight) or (beta, alpha) != (1, 1):
            raise self._error("addmm", "has a live weight or bias, or scales them, which has no rule for relevance")
        return self._ruled("linear", "addmm", torch.addmm(bias, x, weight), x, weight.mT, bias)

    def _baddbmm(self, bias: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """Scores with what is added to them, as BLOOM writes them."""
        added = self._mul(bias, beta) if is_live(bias) else bias * beta
        return self._add(self._mul(self._matmul(batch1, batch2), alpha), added)

    def _pixels(
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
        if self.stage != "pixels":
            raise self._error("conv2d", "is not the one from pixels to patches, which alone has a rule for relevance")
        self.stage = "embedding"
        padding = 0 if padding == "valid" else padding
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._ruled("pixels", name, func(input, weight, bias, **options), input, weight, bias, **options)

    def _share(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = args[0] if args else kwargs.get("dim", kwargs.get("axis"))
        axes = range(x.dim()) if given is None else (given,) if isinstance(given, int) else given
        axes = tuple(axis % x.dim() for axis in axes)
        divisor = prod(x.shape[axis] for axis in axes) if name == "mean" else 1
        return self._ruled("share", name, func(x, *args, **kwargs), x, axes=axes, divisor=divisor)

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

    def _adaptive_avg_pool(self, name: str, input: Tensor, output_size: Any) -> Tensor:
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
        y = self._ruled("linear", "einsum", left @ right.mT, left, right, None)
        order = [*both, *alone[0], *alone[1]]
        return y.reshape([size[a] for a in order]).permute([order.index(a) for a in out])

    def _softmax(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        axis = args[0] if args else kwargs["dim"]
        return self._as_attention(self._ruled("softmax", name, func(x, *args, **kwargs), x, axis=axis))

    def _norm(self, name: str, func: Any, input: Tensor, normalized_shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        y = func(input, normalized_shape, *args, **kwargs)
        names = ("weight", "bias", "eps") if name == "layer_norm" else ("weight", "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        eps = given.get("eps", 1e-5)
        axes = tuple(range(-len(normalized_shape), 0))
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        return self._ruled("norm", name, y, input, given.get("weight"), given.get("bias"), axes=axes, eps=eps)

    def _one_to_one(self, name: str, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self._same_part(x, self._ruled("one_to_one", name, func(x, *args, **kwargs), x))
        if name == "rsqrt":
            self.spreads[y] = True
        return self._as_attention(y) if x in self.attention else y


def is_layer(module: str) -> bool:
    """Whether it is the first numbered one on the way from the model to it, such as encoder.layer.3."""
    return bool(re.fullmatch(r"(?:[^\d.][^.]*\.)+\d+", module))


def is_live(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _has(known: WeakIdKeyDictionary, value: Any) -> bool:
    return isinstance(value, Tensor) and value in known


def _tensor(constant: Any, like: Tensor) -> Tensor:
    return constant if isinstance(constant, Tensor) else like.new_tensor(constant)


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: func(x.clone(), *args, **kwargs)
