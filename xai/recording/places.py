"""Tensors named by the call that gives them, for attentions that no module has to itself and layers that share modules."""

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai.lrp.operations import name_of
from xai.recording.checks import check_arguments
from xai.recording.hooks import shape_of
from xai.recording.reads import Plan

ARGUMENT = "argument"  # the function of a place that is an argument of the model itself, named by `module`


class Place(NamedTuple):
    """What one call of a torch function gave, the same in every pass over inputs of the same structure."""

    module: str  # the innermost module then running
    function: str
    number: int  # of the calls of this function directly in this module, since the model was called
    part: int = 0  # which of several results

    def __str__(self) -> str:
        if self.function == ARGUMENT:
            return f"the argument {self.module!r}"
        return f"call {self.number + 1} of {self.function} in module {self.module!r}"


class Calls:
    """Gives each call of a torch function its place. Modules that run are known by hooks; what is called anew counts anew."""

    def __init__(self) -> None:
        self.modules = [""]
        self.counts: Counter[tuple[str, str]] = Counter()

    def hooks(self, model: nn.Module) -> Iterator[Any]:
        """The handles of the hooks on all modules."""
        for name, module in model.named_modules():
            yield module.register_forward_pre_hook(lambda m, args, name=name: self._enter(name))
            yield module.register_forward_hook(lambda m, args, output: _last_off(self.modules))

    def _enter(self, name: str) -> None:
        if len(self.modules) == 1:
            self.counts.clear()
        self.modules.append(name)

    def place(self, func: Any) -> Place:
        """The place of the call that now happens; counts it."""
        key = self.modules[-1], name_of(func)[0]
        self.counts[key] += 1
        return Place(*key, self.counts[key] - 1)


def arguments_of(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the model's forward by name, those that its `**kwargs` takes among the others.

    Raises TypeError or ValueError for arguments that are no tensors of a batch.
    """
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    rest = {
        n: p for n, p in bound.arguments.items() if bound.signature.parameters[n].kind is inspect.Parameter.VAR_KEYWORD
    }
    plain = {n: p for n, p in bound.arguments.items() if n not in rest}
    arguments = plain | {name: value for more in rest.values() for name, value in more.items()}
    check_arguments(arguments)
    return arguments


def samples_of(inputs: Mapping[str, Any]) -> int:
    """Samples of a call: as many as there are texts, or else as its first tensor has. A sample may have several images."""
    leaves = [value for value in tree_leaves(dict(inputs)) if isinstance(value, Tensor) and value.dim()]
    texts = (value for value in leaves if value.dim() == 2 and not value.is_floating_point())
    return len(next(texts, leaves[0]))


def drawn_in_order(func: Any, args: tuple, kwargs: dict) -> Any:
    """The call's result; a draw of all there is, in random order, gives them in their order, so that it is known.

    ViLT draws its patches so, also in evaluation mode.
    """
    if func is torch.multinomial:
        call = {**dict(zip(("input", "num_samples", "replacement"), args, strict=False)), **kwargs}
        weights = call["input"]
        if call["num_samples"] == weights.shape[-1] and not call.get("replacement") and bool((weights > 0).all()):
            return torch.arange(weights.shape[-1], device=weights.device).expand(weights.shape).clone()
    return func(*args, **kwargs)


def _last_off(modules: list[str]) -> None:
    modules.pop()  # and nothing is returned: a hook's value would stand in for the module's output


@dataclass(frozen=True)
class Places:
    """Where the tensors of one attention come about: of adapters that were found from the model itself."""

    attentions: tuple[
        Place, ...
    ]  # the softmax, or the function that has one inside; of each window, where each is a call
    residual: Place | None  # what the skip connection carries; None if there is none
    output: Place  # what the attention adds to it

    @property
    def module(self) -> str:
        """The one that attention is computed in."""
        return self.attentions[0].module


class Placed:
    """The tensors at some places, as they come about in one pass.

    Residual states are made leaves of the graph unless they have a gradient already. An attention without a skip
    connection gets one that carries zeros.
    """

    def __init__(
        self,
        states: Iterable[Place],
        outputs: Iterable[Place],
        bare: Iterable[Place],
        begins: frozenset[Place] | None = None,
        kept: frozenset[Place] | None = None,
    ) -> None:
        self.states, self.bare = frozenset(states), frozenset(bare)
        self.begins = begins  # the states where a graph begins, and outputs without one; None: all
        self.kept = kept  # those of which more than the shape is kept; None: all
        self.parts: defaultdict[Place, list[Place]] = defaultdict(list)  # of each call, its results that are wanted
        for place in dict.fromkeys((*states, *outputs)):
            self.parts[place._replace(part=0)].append(place)
        self.tensors: dict[Place, Tensor] = {}
        self.zeros: dict[Place, Tensor] = {}  # the skip connections of those that have none

    def see(self, call: Place, result: Any) -> Any:
        """Keeps what is wanted of a call's result; returns what the model gets of it."""
        if call in self.parts and isinstance(result, Tensor) and result.dim() == 2:  # tokens of one sample, [T, D]
            return self._see(call, result[None])[0]
        return self._see(call, result)

    def _see(self, call: Place, result: Any) -> Any:
        for place in self.parts.get(call, ()):
            found = result if isinstance(result, Tensor) else result[place.part]
            if place in self.states:
                found = self.state(place, found)
            elif place in self.bare:
                self.zeros[place] = self.state(place, torch.zeros_like(found))
                if self.begins is not None and place in self.begins and not found.requires_grad:
                    found.requires_grad_()  # no earlier attention has begun the graph
                self.tensors[place] = found
                return found + self.zeros[place]
            self.tensors[place] = found if self.kept is None or place in self.kept else shape_of(found)
        return result

    def see_arguments(self, inputs: Mapping[str, Any]) -> None:
        """Keeps those arguments of the model that are residual states themselves."""
        for place in [place for place in self.parts if place.function == ARGUMENT]:
            self.see(place, inputs[place.module])

    def state(self, place: Place, tensor: Tensor) -> Tensor:
        """A residual state, to be changed before anything reads it. In a pass of another course it may be something else."""
        begins = tensor.is_floating_point() and (self.begins is None or place in self.begins)
        return tensor.requires_grad_() if begins and not tensor.requires_grad else tensor

    def of(self, places: Places) -> tuple[Tensor, Tensor]:
        """Residual state and output of one attention, whose call has happened."""
        if places.residual is None:
            return self.zeros[places.output], self.tensors[places.output]
        return self.tensors[places.residual], self.tensors[places.output]


def placed_of(all_places: Sequence[Places], plan: Plan) -> Placed:
    """What is needed of all attentions of an adapter, in the order of its sites."""
    states = [places.residual for places in all_places if places.residual is not None]
    bare = [places.output for places in all_places if places.residual is None]
    begins = frozenset(all_places[number].residual or all_places[number].output for number in plan.begins)
    kept = {all_places[number].output for number in plan.kept["Y_out"]}
    kept |= {place for number in plan.kept["Y"] if (place := all_places[number].residual) is not None}
    return Placed(states, [places.output for places in all_places], bare, begins, frozenset(kept))
