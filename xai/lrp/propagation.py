"""One graph for gradients and relevance: each ruled operation sends back the one or the other.

In the backward pass of a ruled operation y = f(x...), autograd's own way through f and a direct way to x... lie side by
side; `Propagation.rules` says which of the two is taken, and by which table of rules. Where one table is known before the
pass and no gradient is asked for, its way is the only one: autograd records nothing of f, and what the rule reads is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal[
    *(
        "linear",
        "pixels",
        "convolution",
        "add",
        "shift",
        "scale",
        "product",
        "mixing",
        "gate",
        "share",
        "softmax",
        "norm",
        "centre",
        "one_to_one",
    ),
    "exit",  # a result of one of the model's layers leaves it; for the audit
]
Maybe = Tensor | None
Operands = tuple[Maybe, ...]
ALONE = (
    "the pass was recorded for relevance by the rules of {} alone, and has no other gradients: record with lrp='tokens' (or "
    "'pixels')"
)


@dataclass(frozen=True, eq=False)
class Operation:
    """One call in the forward pass. `options` are what its rule needs beside tensors, such as a norm's epsilon."""

    kind: Kind
    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Way(NamedTuple):
    """The way back through one operation.

    `back` takes what comes back to the result, and what is kept, to what goes back to each operand. None: nothing. What goes to
    an operand that is a constant (a bias, a position embedding) is absorbed by it. It holds no tensor itself.
    """

    back: Callable[..., Operands]
    kept: Operands = ()
    constants: tuple[int, ...] = ()  # live operands that get nothing


Rule = Callable[[Tensor, Operands, Operation], Way]  # of the result, the operands and the operation


AS_AUTOGRAD: dict[Rule, float] = {}


def as_autograd(times: float = 1) -> Callable[[Rule], Rule]:
    """Marks a rule that sends live operands what autograd does by itself, so many times."""

    def mark(rule: Rule) -> Rule:
        AS_AUTOGRAD[rule] = times
        return rule

    return mark


def of_all(back: Callable[[Tensor, Tensor, Operands, Operation], Operands]) -> Rule:
    """The rule that keeps the result and all operands, for `back` of what comes back, these, and the operation."""

    @wraps(back)
    def rule(y: Tensor, operands: Operands, operation: Operation) -> Way:
        return Way(lambda G, y, *operands: back(G, y, operands, operation), (y, *operands))

    return rule


@dataclass(frozen=True)
class Rules:
    """A table of rules. What they send back is relevance itself or, in a `modified_gradient`, relevance / value."""

    name: str
    modified_gradient: bool
    tolerance: float  # what a layer may lose, as a share of the start relevance; rounding in float32 comes to this
    linear: Rule
    pixels: Rule  # the convolution of pixels to patches
    convolution: Rule  # of a grid of tokens
    add: Rule  # of two live tensors
    shift: Rule  # adding a constant, such as a mask or positions
    scale: Rule  # multiplying by a constant
    product: Rule  # a matrix product, as of queries and keys
    mixing: Rule  # the matrix product of attention and values
    gate: Rule  # an elementwise product
    share: Rule  # sum and mean over axes
    softmax: Rule
    norm: Rule
    centre: Rule  # taking the mean away, as norms in plain code do
    one_to_one: Rule  # activations and their like
    absorbing: frozenset[Kind] = frozenset()  # what these do not pass on is absorbed, not lost

    def relevance(self, value: Tensor, back: Tensor) -> Tensor:
        """Of a tensor, from what came back to it."""
        return (value.detach() * back).masked_fill(back == 0, 0) if self.modified_gradient else back


@dataclass
class Flow:
    """Relevance of the whole batch that an operation got, passed on, and left in constants such as biases."""

    entered: Tensor
    left: Tensor
    absorbed: Tensor


@dataclass(eq=False)
class Propagation:
    """What all ruled operations of one recording look at in their backward pass. It must hold no tensor of the graph.

    An operation holds it, so a tensor here would be a cycle that Python's collector does not see.
    """

    alone: Rules | None = None  # the only way back of this graph; None: true gradients, and every table
    rules: Rules | None = None  # of the backward pass that runs; None: true gradients
    ledger: list[tuple[Operation, Flow]] | None = None

    @contextmanager
    def by(self, rules: Rules, audit: bool = False) -> Iterator[list[tuple[Operation, Flow]]]:
        """Backward passes in the body follow the rules; with `audit`, each operation enters its flow in what is yielded."""
        ledger: list[tuple[Operation, Flow]] = []
        self.rules, self.ledger = rules, ledger if audit else None
        try:
            yield ledger
        finally:
            self.rules, self.ledger = None, None

    def ruled(self, operation: Operation, run: Callable[[], Tensor], *operands: Maybe) -> Tensor:
        """What `run` computes natively from the operands, with the choice of ways back, or the only one."""
        way = None
        rule = None if self.alone is None else _rule(self.alone, operation)
        times = None if rule is None else AS_AUTOGRAD.get(rule)
        if rule is None or times == 1:
            y = run()
        elif times is not None:
            operands = (run(),)
            y, way = operands[0].detach(), Way(lambda G: (G * times,))
        else:
            with torch.no_grad():
                y = run()
                way = rule(y, operands, operation)
            operands = tuple(None if i in way.constants else operand for i, operand in enumerate(operands))
        return y if times == 1 else _Ruled.apply(self, operation, way, y, *operands)


class _Ruled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, propagation: Propagation, operation: Operation, way: Way | None, y: Tensor, *operands: Maybe
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.propagation, ctx.operation, ctx.back = propagation, operation, None if way is None else way.back
        ctx.save_for_backward(*((y, *operands) if way is None else map(_value, way.kept)))
        return y

    @staticmethod
    def backward(ctx: Any, *backs: Maybe) -> tuple[Any, ...]:
        (back,), operation, propagation = backs, ctx.operation, ctx.propagation
        rules, live, nothing = propagation.rules, ctx.needs_input_grad[4:], (None, None, None)
        if ctx.back is not None and rules != propagation.alone:
            raise ValueError(ALONE.format(propagation.alone.name))
        if back is None or rules is None:
            return *nothing, back, *[None] * len(live)
        if ctx.back is not None:
            shares = ctx.back(back, *ctx.saved_tensors)
        else:
            y, *operands = ctx.saved_tensors
            way = _rule(rules, operation)(y, tuple(operands), operation)
            shares = way.back(back, *way.kept)
            if propagation.ledger is not None:
                flow = _flow(rules, operation, (y, back), zip(operands, shares, live, strict=True))
                propagation.ledger.append((operation, flow))
        # autograd adds up what goes back to copies made by broadcasting, and casts it to the operand's type
        return *nothing, None, *(share if wanted else None for share, wanted in zip(shares, live, strict=True))


def is_unruled(tensor: Tensor) -> bool:
    """Whether it is what another autograd.Function gave: no mode sees such a call, so that no rule was laid beside it."""
    function = getattr(type(tensor.grad_fn), "_forward_cls", _Ruled)  # of a node in Python alone
    return function is not _Ruled


def _rule(rules: Rules, operation: Operation) -> Rule:
    rule: Rule = _through if operation.kind == "exit" else getattr(rules, operation.kind)
    return rule


def _value(kept: Maybe) -> Maybe:
    """Off the graph, so that it keeps nothing of it."""
    return kept if kept is None or not kept.requires_grad else kept.detach()


def _through(y: Tensor, operands: Operands, operation: Operation) -> Way:
    return Way(lambda back: (back,))


def _flow(
    rules: Rules, operation: Operation, result: tuple[Tensor, Tensor], operands: Iterable[tuple[Maybe, Maybe, bool]]
) -> Flow:
    """Of one operation, from what came back to its result, and went back to each operand, live or constant."""
    entered = rules.relevance(*result).sum()
    left, absorbed = torch.zeros_like(entered), torch.zeros_like(entered)
    for operand, share, live in operands:
        if operand is not None and share is not None:
            (left if live else absorbed).add_(rules.relevance(operand, share).sum())
    if operation.kind in rules.absorbing:
        absorbed = entered - left
    return Flow(entered, left, absorbed)
