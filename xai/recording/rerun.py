"""The recorded call once more, from other embeddings: for methods that average over many of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from xai.recording.adapter import Adapter
from xai.recording.axis import Positions, counted_from, first_of, tokens_of
from xai.recording.inputs import part_of, rows_of
from xai.recording.places import Calls, Place, Placed, arguments_of, drawn_in_order
from xai.recording.unchanged import evaluation, same_random_numbers

Rows = tuple[Tensor, Positions]  # a residual state, and which of its tokens are a modality's


class Call(NamedTuple):
    """How the model was called."""

    model: nn.Module
    args: tuple
    kwargs: dict
    autocast: torch.autocast


def autocast_of(model: nn.Module) -> torch.autocast:
    """As it is now where the model lies."""
    kind = next((parameter.device.type for parameter in model.parameters()), "cpu")
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


class Again(Protocol):
    """A pass run once more, on all samples once or several times: inputs [n B], all samples first, then all again."""

    def gradients(self, target: Callable[[Any], Tensor]) -> tuple[Tensor, dict[str, Tensor]]: ...


class RunAgain(Protocol):
    """Runs the recorded call once more, with other states [n B, tokens, D] of each modality that changes.

    They are what its first event from a layer on takes as residual input: before layer 0 its embeddings.
    """

    def __call__(self, states: Mapping[str, Tensor], layer: int = 0, /) -> Again: ...


@dataclass(frozen=True, eq=False)
class Rerun:
    """What came out, and where each changed modality went in. Attention ran as the model has it, and left no record."""

    output: Any
    places: dict[str, Rows]
    samples: int
    inputs: int  # all samples, once or several times

    def gradients(self, target: Callable[[Any], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The target of all inputs, one row after the other, and its gradient by the changed states [inputs, tokens, D].

        It is 0 where they do not count. A target takes outputs of all samples, so that it has them part by part.
        """
        states = [state for state, _ in self.places.values()]
        with torch.inference_mode(False), torch.enable_grad():
            parts = torch.arange(self.inputs).split(self.samples)
            outputs = (part_of(self.output, part, self.inputs) for part in parts) if len(parts) > 1 else [self.output]
            scores = torch.cat([target(output) for output in outputs])
            total = scores.sum()
        gradients = torch.autograd.grad(total, states, allow_unused=True, materialize_grads=True)
        return scores.detach(), {
            name: tokens_of(gradient, self.inputs)[:, rows]
            for (name, (_, rows)), gradient in zip(self.places.items(), gradients, strict=True)
        }

    def gradients_of_each(self, values: Callable[[Any], Tensor], at_once: int) -> Iterator[dict[str, Tensor]]:
        """Yields the gradients of each of some numbers a sample, [B, n], a few at once, [few, B, tokens, D]."""
        states = [state for state, _ in self.places.values()]
        with torch.inference_mode(False), torch.enable_grad():
            total = values(self.output).sum(dim=0)
        for turns in torch.eye(len(total), dtype=total.dtype, device=total.device).split(at_once):
            found = torch.autograd.grad(
                total, states, turns, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
            filled = (x.new_zeros(len(turns), *x.shape) if g is None else g for x, g in zip(states, found, strict=True))
            yield {
                name: torch.stack([tokens_of(one, self.inputs)[:, rows] for one in gradients])
                for (name, (_, rows)), gradients in zip(self.places.items(), filled, strict=True)
            }


class _Graph(TorchFunctionMode):
    """Builds the graph also where the model switches gradients off: a frozen part is explained too.

    Keeps in mind what has been computed with, in `read`, if there is one.
    """

    def __init__(self, calls: Calls, placed: Placed, read: WeakIdKeyDictionary | None) -> None:
        super().__init__()
        self.calls, self.placed, self.read = calls, placed, read
        self.looks = bool(placed.parts) or read is not None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if not self.looks:
            return drawn_in_order(func, args, kwargs or {})
        place = self.calls.place(func)
        result = drawn_in_order(func, args, kwargs or {})
        if self.read is not None and any(isinstance(leaf, Tensor) for leaf in tree_leaves((result,))):
            for leaf in tree_leaves((args, kwargs)):  # and of no question, such as the size
                if isinstance(leaf, Tensor):
                    self.read[leaf] = True
        return self.placed.see(place, result)


def _copy(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


Changes = Mapping[str, tuple[Positions, Tensor]]  # by modality: its tokens in a residual state, and what to put there


class _Changing(Placed):
    """Changes residual states as they come about."""

    def __init__(self, changed: Mapping[Place, Changes], bare: frozenset[Place], places: dict[str, Rows]) -> None:
        super().__init__(changed.keys() - bare, bare & changed.keys(), bare & changed.keys())
        self.changed, self.places = changed, places

    def state(self, place: Place, tensor: Tensor) -> Tensor:
        return _change(tensor, self.changed[place], self.places)


def rerun(
    call: Call,
    adapter: Adapter,
    samples: int,
    modalities: Mapping[str, Positions],
    states: Mapping[str, Tensor],
    layer: int = 0,
    graph: bool = True,
) -> Rerun:
    """`call`, which is of so many samples, with these states, as `RunAgain` says; without a `graph` there are no gradients.

    Raises ValueError for a modality that has none from the layer on, or whose state has been read when it can be changed.
    """
    inputs = max(map(len, states.values()), default=samples)
    if inputs > samples:
        rows = torch.arange(samples).repeat(inputs // samples)
        arguments = tree_map(lambda value: rows_of(value, samples, rows), (call.args, call.kwargs))
        call = call._replace(args=arguments[0], kwargs=arguments[1])
    places: dict[str, Rows] = {}
    read = WeakIdKeyDictionary() if layer else None  # embeddings are changed before anything reads them
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers(call.model))
        stack.enter_context(evaluation(call.model))
        first = _first(adapter, modalities, states, layer)
        calls, placed = Calls(), _Changing({}, frozenset(), places)
        if adapter.places:
            bare = frozenset(site.output for site in adapter.places if site.residual is None)
            placed = _Changing({place: first[place, 0] for place, _ in first}, bare, places)
            for handle in calls.hooks(call.model):
                stack.callback(handle.remove)
        else:
            for (module, at), changed in first.items():
                hook = _changing(at, changed, places, read)
                handle = call.model.get_submodule(module).register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        mode = torch.enable_grad() if graph else torch.no_grad()
        for context in (torch.inference_mode(False), mode, call.autocast, _Graph(calls, placed, read)):
            stack.enter_context(context)
        args, kwargs = tree_map(_copy, (call.args, call.kwargs))  # an argument may be a residual state itself
        placed.see_arguments(arguments_of(call.model, args, kwargs))
        output = call.model(*args, **kwargs)
    return Rerun(output, places, samples, inputs)


def _first(
    adapter: Adapter, modalities: Mapping[str, Positions], states: Mapping[str, Tensor], layer: int
) -> dict[tuple[Any, int], dict[str, tuple[Positions, Tensor]]]:
    """The residual module and its call that take each modality first, from a layer on, or the place of the state and 0.

    With them what changes there.
    """
    found: dict[tuple[Any, int], dict[str, tuple[Positions, Tensor]]] = {}
    left, calls = set(states), Counter[str]()
    for number, site in ((number, site) for number, sites in enumerate(adapter.layers) for site in sites):
        start = min(first_of(modalities[name]) for name in site.queries)
        for name in left & set(site.queries) if number >= layer else ():
            rows = counted_from(modalities[name], start)
            at: tuple[Any, int] = (site.residual, calls[site.residual])
            if site.places is not None:
                at = (site.places.residual or site.places.output, 0)
            found.setdefault(at, {})[name] = (rows, states[name])
            left.remove(name)
        calls[site.residual] += 1
    if left:
        raise ValueError(
            f"modality {', '.join(sorted(left))} is never the queries of an attention: the model has no embedding of it"
        )
    return found


def _changing(at: int, changed: Changes, places: dict[str, Rows], read: WeakIdKeyDictionary | None) -> Any:
    """At call `at` of a module, whose state must be none of those `read`."""
    calls = count()

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if next(calls) == at:
            tensor = args[0] if args else next(iter(kwargs.values()))
            if read is not None and tensor in read:
                raise ValueError(
                    f"states of {', '.join(changed)} are read before their own attention takes them, so that they cannot be "
                    "changed there; give a layer in which no modality reads another one"
                )
            _change(tensor, changed, places)

    return hook


def _change(tensor: Tensor, changed: Changes, places: dict[str, Rows]) -> Tensor:
    """In place: the skip connection may take the same tensor past a module."""
    data = tensor.detach().clone(memory_format=torch.contiguous_format)
    for rows, values in changed.values():
        tokens_of(data, len(values))[:, rows] = values
    tensor.data = data  # new storage: the old one may be a parameter's
    if not tensor.requires_grad:
        tensor.requires_grad_()
    places.update({name: (tensor, rows) for name, (rows, _) in changed.items()})
    return tensor
