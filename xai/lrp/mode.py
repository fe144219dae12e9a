"""The mode below a forward pass that is ruled. It is strict: an operation without rule is an error."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from xai.lrp.operations import ACTIVATIONS, CALLED, DIVIDING, MOVES, WRITTEN_OUT, name_of
from xai.lrp.propagation import Kind, Operation, Propagation, is_unruled

Stage = Literal["pixels", "embedding", "blocks", "target"]


class PropagationError(RuntimeError):
    """Relevance has no defined way through an operation, or is lost on it."""


@dataclass(eq=False)
class Probabilities:
    """Of one softmax: whether values are mixed by it, which makes it an attention and is known after it only."""

    mix: bool = False


class Mode(TorchFunctionMode):
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
        self.attention = WeakIdKeyDictionary()  # what comes from a softmax -> its Probabilities
        self.changed = WeakIdKeyDictionary()  # in place, so that they no longer are what they were
        self.spreads = WeakIdKeyDictionary()  # what comes from a reciprocal root: a norm in plain code scales by it
        self.lengths = WeakIdKeyDictionary()  # norms of vectors, by which alone may be divided
        self.projected = WeakIdKeyDictionary()  # what comes from a projection -> which part of which one
        self.routing = WeakIdKeyDictionary()  # the largest probabilities, by which a mixture weighs its experts
        self.means = WeakIdKeyDictionary()  # what is a mean -> what of, and over which axes

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
            if whole:
                output = self._same_part(args[0], self._ruled("one_to_one", type(module).__name__, output, args[0]))
            self.resting -= whole
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
        if any(map(is_unruled, live)):
            raise self._error(name, "reads the result of an autograd.Function, which has no rule for relevance")
        if any(tensor in self.lengths for tensor in live) and not (name == "div" and args[0] not in self.lengths):
            raise self._error(
                name, "takes the norm of a vector, by which one may divide alone; it has no rule for relevance"
            )
        if kwargs.get("inplace"):
            kwargs, in_place = {**kwargs, "inplace": False}, True
        elif in_place:
            func = _on_a_copy(func)
        result = self._dispatch(name, in_place, func, args, kwargs)
        if name == "index_add" and in_place:
            return args[0].copy_(result)
        if in_place:
            self.changed[args[0]] = True
        return result

    def _dispatch(self, name: str, in_place: bool, func: Any, args: tuple, kwargs: dict) -> Any:
        if name in MOVES:
            result = func(*args, **kwargs)
            for part in filter(is_live, tree_leaves((result,))) if args and _has(self.projected, args[0]) else ():
                self.projected[part] = object() if name in DIVIDING else self.projected[args[0]]
            for kind in (self.attention, self.routing):
                if args and _has(kind, args[0]):
                    _mark(kind, result, kind[args[0]])
            return result
        if name in ("norm", "linalg_norm", "linalg_vector_norm"):
            length = func(*args, **kwargs)
            self.lengths[length] = True
            return length
        named = [key for key in ("input", "other", "mat2") if key in kwargs]
        args = (*args, *(kwargs[key] for key in named))
        kwargs = {key: value for key, value in kwargs.items() if key not in named}
        if name in WRITTEN_OUT:
            return getattr(self, f"_{name}")(*args, **kwargs)
        if name in CALLED:
            return getattr(self, f"_{CALLED[name]}")(name, func, *args, **kwargs)
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

    def _same_part(self, x: Any, y: Tensor) -> Tensor:
        """y, which came entry by entry from x."""
        if _has(self.projected, x):
            self.projected[y] = self.projected[x]
        return y


def is_layer(module: str) -> bool:
    """Whether it is the first numbered one on the way from the model to it, such as encoder.layer.3."""
    return bool(re.fullmatch(r"(?:[^\d.][^.]*\.)+\d+", module))


def is_live(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _has(known: WeakIdKeyDictionary, value: Any) -> bool:
    return isinstance(value, Tensor) and value in known


def _mark(kind: WeakIdKeyDictionary, result: Any, mark: Any) -> None:
    for tensor in filter(is_live, tree_leaves((result,))):
        kind[tensor] = mark


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: func(x.clone(), *args, **kwargs)
