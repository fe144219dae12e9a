"""The mode below a forward pass that is ruled. It is strict: an operation without rule is an error."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from weakref import ref

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xai.lrp.operations import ACTIVATIONS, CALLED, DIVIDING, MOVES, WRITTEN_OUT, name_of
from xai.lrp.propagation import Kind, Operation, Propagation, is_unruled
from xai.recording.unchanged import modules_of

Stage = Literal["pixels", "embedding", "blocks", "target"]


class PropagationError(RuntimeError):
    """Relevance has no defined way through an operation, or is lost on it."""


@dataclass(eq=False)
class Probabilities:
    """Of one softmax: whether values are mixed by it, which makes it an attention and is known after it only."""

    mix: bool = False


class Known(NamedTuple):
    """What rules depend on, of a tensor."""

    changed: bool = False  # in place, so that it no longer is what it was
    length: bool = False  # the norm of a vector, by which alone may be divided
    spread: bool = False  # a reciprocal root: a norm in plain code scales by it
    routing: bool = False  # the largest probabilities, by which a mixture weighs its experts
    attention: Probabilities | None = None  # the softmax it comes from
    projection: object | None = None  # which part of which projection it comes from
    mean: tuple[ref, tuple[int, ...]] | None = None  # what it is the mean of, and over which axes


NOTHING = Known()


class Mode(TorchFunctionMode):
    """Gives every operation on live tensors, those with a gradient, its ways back.

    `stage` is where the pass is: from live "pixels" to patches by a convolution with a rule of its own; "embedding" them,
    where an added constant is no mask but a position and takes its share; "blocks", from the first product on; "target",
    the score of the outputs, where live tensors may be multiplied, and subtracted as gradients do it.
    """

    def __init__(self, propagation: Propagation, stage: Stage) -> None:
        super().__init__()
        self.propagation, self.stage, self.alone = propagation, stage, propagation.alone is not None
        self.names: dict[nn.Module, str] = {}
        self.modules: list[str] = []  # those now running, the innermost last
        self.whole: Tensor | None = None  # what one of them got that is one operation
        self.known: dict[int, tuple[ref[Tensor], Known]] = {}  # by a tensor's id, which another one may have had before

    def hooks(self, model: nn.Module) -> Iterator[Any]:
        """Hooks that tell which module runs, and make one operation of an activation written in plain code."""
        for name, module in modules_of(model).items():
            self.names.setdefault(module, name)
        yield register_module_forward_pre_hook(self._enter)  # one for all, as a model has many
        yield register_module_forward_hook(self._leave)

    def _enter(self, module: nn.Module, args: tuple) -> Any:
        if module not in self.names:  # of another model
            return None
        self.modules.append(self.names[module])
        if type(module).__name__ not in ACTIVATIONS:
            return None
        self.whole = args[0]
        return (args[0].detach(), *args[1:]) if self.alone else args

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if module not in self.names:
            return None
        if self.whole is not None:
            x, y = self.whole, output
            output, self.whole = self._ruled("one_to_one", type(module).__name__, lambda: y, x), None
            self._known(output, projection=self.of(x).projection)
        if not self.alone and is_layer(self.modules[-1]):
            output = self._exits(output)
        self.modules.pop()
        return output

    def _exits(self, output: Any) -> Any:
        """The same, marked for the audit: what happens to it inside its layer is not what leaves."""
        if is_live(output):
            return self._ruled("exit", "exit", lambda: output.view_as(output), output)
        return type(output)(map(self._exits, output)) if type(output) in (tuple, list) else output

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        live = live_among((*args, *kwargs.values()) if kwargs else args)
        if self.whole is not None or not live:
            return func(*args, **kwargs)
        name, in_place = name_of(func)
        for tensor in live:
            known = self.of(tensor)
            if known.changed:
                raise self._error(name, "reads a tensor after another operation has changed it in place")
            if is_unruled(tensor):
                raise self._error(name, "reads the result of an autograd.Function, which has no rule for relevance")
            if known.length and not (name == "div" and args[0] is not tensor):
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
            self._known(args[0], changed=True)
        return result

    def _dispatch(self, name: str, in_place: bool, func: Any, args: tuple, kwargs: dict) -> Any:
        if name in MOVES:
            result = func(*args, **kwargs)
            return self._moved(name, self.of(args[0]) if args else NOTHING, result)
        if name in ("norm", "linalg_norm", "linalg_vector_norm"):
            return self._known(func(*args, **kwargs), length=True)
        if kwargs:
            named = [key for key in ("input", "other", "mat2") if key in kwargs]
            args = (*args, *(kwargs[key] for key in named))
            kwargs = {key: value for key, value in kwargs.items() if key not in named}
        if name in WRITTEN_OUT:
            return getattr(self, f"_{name}")(*args, **kwargs)
        if name in CALLED:
            return getattr(self, f"_{CALLED[name]}")(name, func, *args, **kwargs)
        if not in_place and name != "setitem":
            result = func(*args, **kwargs)
            if not live_among((result,)):
                return result  # a question, such as the size
        raise self._error(name, "has no rule for relevance")

    def _moved(self, name: str, known: Known, result: Any) -> Any:
        """Parts of a tensor, of which the same is known; what is divided are different parts of a projection."""
        if known is not NOTHING:
            for part in live_among((result,)):
                projection = object() if name in DIVIDING and known.projection else known.projection
                self._known(part, projection=projection, attention=known.attention, routing=known.routing)
        return result

    def _ruled(
        self, kind: Kind, name: str, run: Callable[[], Tensor], *operands: Tensor | None, **options: Any
    ) -> Tensor:
        operation = Operation(kind, name, self.modules[-1] if self.modules else "", options)
        return self.propagation.ruled(operation, run, *operands)

    def _error(self, name: str, what: str) -> PropagationError:
        where = f"module {self.modules[-1]!r}" if self.modules and self.modules[-1] else f"the {self.stage}"
        return PropagationError(f"{name} in {where} {what}; explain this model by a method without LRP")

    def of(self, value: Any) -> Known:
        """What is known of it."""
        of, known = self.known.get(id(value), (None, NOTHING))
        return known if of is not None and of() is value else NOTHING

    def _known(self, tensor: Tensor, **known: Any) -> Tensor:
        """The same tensor, of which this is known now."""
        self.known[id(tensor)] = ref(tensor), Known(**known)
        return tensor


def is_layer(module: str) -> bool:
    """Whether it is the first numbered one on the way from the model to it, such as encoder.layer.3."""
    return bool(re.fullmatch(r"(?:[^\d.][^.]*\.)+\d+", module))


def is_live(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def live_among(values: tuple) -> list[Tensor]:
    """Those of some values, and of the lists and dicts among them, that are live."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                found.append(value)
        elif isinstance(value, (tuple, list, dict)):
            found += filter(is_live, tree_leaves(value))
    return found


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: func(x.clone(), *args, **kwargs)
