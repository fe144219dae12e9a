"""One observed forward pass: every call of a torch function, what it reads, and which tokens its rows are."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from xai.adapters.operands import tensors
from xai.adapters.origins import PRODUCTS, Origins
from xai.adapters.tokens import rank_of
from xai.lrp.operations import name_of
from xai.recording.places import ARGUMENT, Calls, Place, arguments_of, drawn_in_order, samples_of
from xai.recording.record import SOFTMAX
from xai.recording.unchanged import evaluation, same_random_numbers

STOPPING = frozenset({"linear", "embedding", "addmm", "layer_norm"})  # between a product and its softmax there is none
HEADS = frozenset({"linear"})  # but what mixes heads


@dataclass(frozen=True)
class Value:
    """A tensor of the pass: the step that gave it, and which of its results it is."""

    step: int
    part: int
    shape: tuple[int, ...]
    tokens: Tensor | None  # [..., T] of a tensor [..., T, D]


@dataclass(eq=False)
class Step:
    """One call. `reads` are the tensors it reads that come from other steps."""

    place: Place
    name: str
    reads: tuple[Value, ...]
    in_place: bool = False
    rows: Tensor | None = None  # of a product: tokens of its rows and of its columns, [..., q] and [..., k]
    columns: Tensor | None = None


@dataclass(eq=False)
class AttentionCall:
    """An attention: the step of its softmax, and the tokens and steps of its queries and keys."""

    step: int
    query_steps: tuple[int, ...]  # that queries come from
    key_steps: tuple[int, ...]
    queries: Tensor | None  # tokens, [N, q] and [N, k]: N is the batch, or that of all its windows
    keys: Tensor | None
    causal: bool


@dataclass(eq=False)
class Trace:
    steps: list[Step] = field(default_factory=list)
    attentions: list[AttentionCall] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)  # steps that give what the model returns
    arguments: dict[str, Any] = field(default_factory=dict)
    origins: Any = None
    samples: int = 1


def call_of(inputs: Any) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call, in order and by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return ((inputs,) if isinstance(inputs, Tensor) else tuple(inputs)), {}


def traced(model: nn.Module, inputs: Any) -> Trace:
    """Observes one call of the model, in evaluation mode; changes nothing of it, also when it raises."""
    args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, call_of(inputs))
    arguments = arguments_of(model, args, kwargs)
    trace = Trace(arguments=arguments, samples=samples_of(arguments))
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers(model))
        stack.enter_context(evaluation(model))
        calls = Calls()
        for handle in calls.hooks(model):
            stack.callback(handle.remove)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())  # as when it is recorded; with frozen parameters there is no graph
        trace.origins = Origins(model, trace.arguments)
        mode = stack.enter_context(_Observing(trace, calls))
        output = model(*args, **kwargs)
        trace.outputs = {mode.known[t].step for t in _results(output) if t in mode.known}
    return trace


class _Observing(TorchFunctionMode):
    def __init__(self, trace: Trace, calls: Calls) -> None:
        super().__init__()
        self.trace, self.calls, self.known = trace, calls, WeakIdKeyDictionary()
        for name, value in trace.arguments.items():
            if isinstance(value, Tensor):
                self._give(Step(Place(name, ARGUMENT, 0), ARGUMENT, ()), value)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:  # as when it is recorded
            return None
        place, (name, in_place) = self.calls.place(func), name_of(func)
        read = list(tensors((*args, *kwargs.values())))
        step = Step(place, name, tuple(self.known[t] for t in read if t in self.known), in_place)
        if name in PRODUCTS:
            self._note_product(step, name, read)
        attention = self._attention(func, args, kwargs)
        result = drawn_in_order(func, args, kwargs)
        if func in SOFTMAX:
            attention = self._softmax(step, args[0] if args else kwargs["input"], result)
        if name == "setitem":
            self.trace.origins.follow(name, func, args, kwargs, result)
            self._give(step, args[0])
            self._give_base(step, args[0])
            return result
        if next(tensors((result,)), None) is None:
            return result
        if not in_place:
            self.trace.origins.follow(name, func, args, kwargs, result)
        self._give(step, result)
        if in_place and isinstance(args[0], Tensor):
            self._give_base(step, args[0])
        if attention is not None:
            attention.step = len(self.trace.steps) - 1
            self.trace.attentions.append(attention)
            if attention.queries is not None and func in SOFTMAX:
                shape = (*result.shape[:-1], 1)
                rows = step.rows
                if rows is not None and rows.numel() == result[..., 0].numel():
                    self.trace.origins.set(result, rows.reshape(shape).expand(result.shape))
        return result

    def _give(self, step: Step, result: Any) -> None:
        self.trace.steps.append(step)
        for part, tensor in enumerate(tensors((result,))):
            rows = self.trace.origins.rows(tensor) if tensor.is_floating_point() else None
            self.known[tensor] = Value(len(self.trace.steps) - 1, part, tuple(tensor.shape), rows)

    def _give_base(self, step: Step, changed: Tensor) -> None:
        """What is changed in place by a view changes what it is a view of."""
        base = changed._base
        if base is not None:
            before = (self.known[base],) if base in self.known else ()
            self._give(Step(step.place, "changed", (*before, self.known[changed])), base)

    def _note_product(self, step: Step, name: str, read: list[Tensor]) -> None:
        left, right = read[-2:] if len(read) > 1 else (read[0], read[0])
        step.rows, step.columns = self.trace.origins.rows(left), self.trace.origins.columns(right)
        if name == "einsum":
            step.columns = self.trace.origins.rows(right)

    def _attention(self, func: Any, args: tuple, kwargs: dict) -> AttentionCall | None:
        """That of a function with a softmax inside."""
        names: tuple[str, ...]
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        elif func is F.multi_head_attention_forward:
            names = ("query", "key", "value")
        else:
            return None
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        rows = [self.trace.origins.rows(call[name]) for name in ("query", "key")]
        if func is F.multi_head_attention_forward:  # [T, B]
            rows = [None if row is None else row.mT for row in rows]
        else:
            rows = [None if row is None else row.amax(dim=1) for row in rows]
        steps = [(self.known[call[name]].step,) if call[name] in self.known else () for name in ("query", "key")]
        causal = bool(call.get("is_causal")) or _hides_later(call.get("attn_mask"))
        return AttentionCall(-1, steps[0], steps[1], rows[0], rows[1], causal)

    def _softmax(self, step: Step, scores: Tensor, probabilities: Tensor) -> AttentionCall | None:
        """A softmax over the last axis of what comes from a product of tokens."""
        if probabilities.dim() < 3 or not step.reads:
            return None
        products = self._products_of(step, probabilities, STOPPING)
        if not products:
            if self._products_of(step, probabilities, STOPPING - HEADS):
                return AttentionCall(-1, (), (), None, None, causal=False)
            return None
        best = max(products, key=lambda product: _least_rank(product))
        rows, columns = (_without_heads(tokens) for tokens in (best.rows, best.columns))
        step.rows = best.rows
        queries, keys = best.reads[-2:][0].step, best.reads[-1].step  # baddbmm reads first what it adds
        upper = torch.ones(probabilities.shape[-2:], dtype=torch.bool, device=probabilities.device).triu(1)
        causal = bool(upper.any()) and not bool((probabilities != 0)[..., upper].any())
        return AttentionCall(-1, (queries,), (keys,), rows, columns, causal)

    def _products_of(self, step: Step, probabilities: Tensor, stopping: frozenset[str]) -> list[Step]:
        """The nearest products on every way back, of as many queries and keys."""
        found, waiting, done = [], [value.step for value in step.reads], set[int]()
        while waiting:
            number = waiting.pop()
            before = self.trace.steps[number]
            if number in done or before.name in stopping:
                continue
            done.add(number)
            if before.name in PRODUCTS:
                found.append(before)
            else:
                waiting += [value.step for value in before.reads]
        return [
            product
            for product in found
            if product.rows is not None
            and product.columns is not None
            and product.columns.shape[-1] == probabilities.shape[-1]
            and product.rows.numel() == probabilities[..., 0].numel()
        ]


def _least_rank(product: Step) -> int:
    """Low for a product with positions, as of the relative ones, rather than with tokens."""
    return min(int(rank_of(tokens).max()) for tokens in (product.rows, product.columns) if tokens is not None)


def _without_heads(tokens: Tensor | None) -> Tensor | None:
    """[N, T] from [N, H, T], or from [N H, T], where heads are rows of the same tokens; None of more axes."""
    if tokens is None or tokens.dim() not in (2, 3):
        return None
    return tokens.amax(dim=1) if tokens.dim() == 3 else torch.unique_consecutive(tokens, dim=0)


def _hides_later(mask: Tensor | None) -> bool:
    if mask is None or mask.shape[-2] != mask.shape[-1] or mask.shape[-1] < 2:
        return False
    upper = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).triu(1)
    later = mask[..., upper]
    return not bool(later.any()) if mask.dtype == torch.bool else bool((later < -1e4).all())


def _results(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in _results(value)]
    return _results(list(vars(output).values())) if hasattr(output, "__dataclass_fields__") else []
