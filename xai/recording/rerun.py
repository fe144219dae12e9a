"""The recorded call once more, from other embeddings: for methods that average over many of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai.recording.adapter import Adapter
from xai.recording.unchanged import evaluation, same_random_numbers

Place = tuple[Tensor, slice]  # a residual stream of the run [B, q, D], and a modality's rows in it


class Call(NamedTuple):
    """How the model was called."""

    model: nn.Module
    args: tuple
    kwargs: dict
    autocast: torch.autocast


@dataclass(frozen=True, eq=False)
class Rerun:
    """What came out, and where each changed modality went in. Attention ran as the model has it, and left no record."""

    output: Any
    places: dict[str, Place]

    def gradients(self, target: Callable[[Any], Tensor]) -> dict[str, Tensor]:
        """The target's gradient by the embeddings [B, tokens, D] of each changed modality, 0 where they do not count."""
        tensors = [tensor for tensor, _ in self.places.values()]
        with torch.inference_mode(False), torch.enable_grad():
            score = target(self.output).sum()
        found = torch.autograd.grad(score, tensors, allow_unused=True, materialize_grads=True)
        return {name: slope[:, rows] for (name, (_, rows)), slope in zip(self.places.items(), found, strict=True)}


class _Graph(TorchFunctionMode):
    """Builds the graph also where the model switches gradients off: a frozen part is explained too."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))


def rerun(call: Call, adapter: Adapter, modalities: Mapping[str, slice], embeddings: Mapping[str, Tensor]) -> Rerun:
    """`call` with these embeddings: what the first event of each modality takes as residual input.

    Raises ValueError for a modality that has none.
    """
    places: dict[str, Place] = {}
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers(call.model))
        stack.enter_context(evaluation(call.model))
        for (module, at), rows in _first(adapter, modalities, embeddings).items():
            hook = _changing(at, {name: (where, embeddings[name]) for name, where in rows.items()}, places)
            handle = call.model.get_submodule(module).register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        for context in (torch.inference_mode(False), torch.enable_grad(), call.autocast, _Graph()):
            stack.enter_context(context)
        output = call.model(*call.args, **call.kwargs)
    return Rerun(output, places)


def _first(
    adapter: Adapter, modalities: Mapping[str, slice], embeddings: Mapping[str, Tensor]
) -> dict[tuple[str, int], dict[str, slice]]:
    """The residual module and its call that take each modality first, and the modality's rows there."""
    found: dict[tuple[str, int], dict[str, slice]] = {}
    left, calls = set(embeddings), Counter[str]()
    for site in adapter.sites:
        start = modalities[site.queries[0]].start
        for name in left & set(site.queries):
            rows = slice(modalities[name].start - start, modalities[name].stop - start)
            found.setdefault((site.residual, calls[site.residual]), {})[name] = rows
        left -= set(site.queries)
        calls[site.residual] += 1
    if left:
        raise ValueError(
            f"modality {', '.join(sorted(left))} asks nothing in any attention: the model has no embedding of it"
        )
    return found


def _changing(at: int, changed: Mapping[str, tuple[slice, Tensor]], places: dict[str, Place]) -> Any:
    """In place, at call `at` of a module: the skip connection may take the same tensor past it."""
    calls = count()

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if next(calls) != at:
            return
        tensor = args[0] if args else next(iter(kwargs.values()))
        data = tensor.detach().clone()
        for rows, values in changed.values():
            data[:, rows] = values
        tensor.data = data  # new storage: the old one may be a parameter's
        if not tensor.requires_grad:
            tensor.requires_grad_()
        places.update({name: (tensor, rows) for name, (rows, _) in changed.items()})

    return hook
