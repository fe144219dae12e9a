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
from xai.adapters.operations import PRODUCTS
from xai.adapters.origins import Origins
from xai.adapters.tokens import rank_of
from xai.lrp.operations import name_of
from xai.recording.deformable import deformable_attention, deformable_shown
from xai.recording.places import ARGUMENT, Calls, Place, arguments_of, drawn_in_order, samples_of
from xai.recording.unchanged import evaluation, same_random_numbers
from xai.recording.watch import SOFTMAX

STOPPING = frozenset({"linear", "embedding", "addmm", "layer_norm"})  # between a product and its softmax there is none
FUNCTIONS: dict[Any, tuple[str, ...]] = {  # with a softmax inside; their arguments that attention is made of
    F.scaled_dot_product_attention: ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
    F.multi_head_attention_forward: ("query", "key", "value"),
    deformable_attention: ("forward", "key", "shapes", "grids", "starts", "points", "query"),
}


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
        stack.enter_context(deformable_shown(model))
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
        if name == "detach" and self.trace.origins.of(result) is not self.trace.origins.of(args[0]):
            step.reads = ()  # tokens of their own
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
        names = FUNCTIONS.get(func)
        if names is None:
            return None
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        pair = [call[name] for name in ("query", "key")]
        rows = [self.trace.origins.rows(tensor) for tensor in pair]
        if func is F.multi_head_attention_forward:  # [T, B]
            rows = [None if row is None else row.mT for row in rows]
        elif func is deformable_attention:  # [B, T, H, ...]
            rows = [None if row is None else row.flatten(2).amax(dim=2) for row in rows]
        else:
            rows = [None if row is None else row.amax(dim=1) for row in rows]
        steps = [(self.known[tensor].step,) if tensor in self.known else () for tensor in pair]
        causal = bool(call.get("is_causal")) or _hides_later(call.get("attn_mask"))
        return AttentionCall(-1, steps[0], steps[1], rows[0], rows[1], causal)

    def _softmax(self, step: Step, scores: Tensor, probabilities: Tensor) -> AttentionCall | None:
        """A softmax over the last axis of what comes from a product of tokens."""
        if probabilities.dim() < 3 or not step.reads:
            return None
        turned = _is_turned(self.trace.origins.of(scores))
        products = self._products_of(step, probabilities, turned)
        if not products:
            return None
        best = max(products, key=_least_rank)
        queries, keys = best.reads[-2].step, best.reads[-1].step  # baddbmm reads first what it adds
        rows, columns = best.rows, best.columns
        if turned:
            queries, keys, rows, columns = keys, queries, columns, rows
        step.rows = rows
        upper = torch.ones(probabilities.shape[-2:], dtype=torch.bool, device=probabilities.device).triu(1)
        causal = bool(upper.any()) and not bool((probabilities != 0)[..., upper].any())
        return AttentionCall(-1, (queries,), (keys,), _without_heads(rows), _without_heads(columns), causal)

    def _products_of(self, step: Step, probabilities: Tensor, turned: bool) -> list[Step]:
        """The nearest products on every way back, of as many queries and keys."""
        found, waiting, done = [], [value.step for value in step.reads], set[int]()
        while waiting:
            number = waiting.pop()
            before = self.trace.steps[number]
            if number in done or (before.name in STOPPING and not mixes_heads(before, probabilities.shape)):
                continue
            done.add(number)
            if before.name in PRODUCTS:
                found.append(before)
            else:
                waiting += [value.step for value in before.reads]
        return [product for product in found if _fits(product, probabilities, turned)]


def mixes_heads(step: Step, shape: tuple[int, ...]) -> bool:
    """Whether a linear map is one of heads, which are its last axis after queries and keys (talking heads)."""
    return step.name == "linear" and step.reads[0].shape[-3:-1] == tuple(shape[-2:]) and len(shape) == 4


def _fits(product: Step, probabilities: Tensor, turned: bool) -> bool:
    """Whether it is one of as many queries and keys."""
    rows, columns = (product.columns, product.rows) if turned else (product.rows, product.columns)
    if rows is None or columns is None:
        return False
    return columns.shape[-1] == probabilities.shape[-1] and rows.numel() == probabilities[..., 0].numel()


def _is_turned(tokens: Tensor | None) -> bool:
    """Whether scores, which have the tokens of the rows of their product, have them along the last axis: queries are keys."""
    if tokens is None or tokens.dim() < 2 or bool((tokens == tokens[..., :1]).all()):
        return False
    return bool((tokens == tokens[..., :1, :]).all())


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
