"""One graph for gradients and relevance: each ruled operation sends back the one or the other.

In the backward pass of a ruled operation y = f(x...), autograd's own way through f and a direct way to x... lie side by
side; `Propagation.rules` says which of the two is taken, and by which table of rules.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True, eq=False)
class Operation:
    """One call in the forward pass. `options` are what its rule needs beside tensors, such as a norm's epsilon."""

    kind: Kind
    name: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)


# (what comes back to y, y, the operands, the operation) to what goes back to each operand. None: nothing. What goes to an
# operand that is a constant (a bias, a position embedding) is absorbed by it.
Rule = Callable[[Tensor, Tensor, tuple[Maybe, ...], Operation], tuple[Maybe, ...]]


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

    rules: Rules | None = None  # None: true gradients
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

    def ruled(self, operation: Operation, y: Tensor, *operands: Maybe) -> Tensor:
        """y, computed natively from the operands, with the choice of ways back."""
        out: Tensor = _Ruled.apply(self, operation, y, *operands)
        return out


class _Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, propagation: Propagation, operation: Operation, y: Tensor, *operands: Maybe) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.propagation, ctx.operation = propagation, operation
        ctx.save_for_backward(y, *operands)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *backs: Maybe) -> tuple[Any, ...]:
        (back,) = backs
        y, *operands = ctx.saved_tensors
        rules = ctx.propagation.rules
        if back is None or rules is None:
            return None, None, back, *[None] * len(operands)
        rule = _through if ctx.operation.kind == "exit" else getattr(rules, ctx.operation.kind)
        shares = rule(back, y, tuple(operands), ctx.operation)
        if ctx.propagation.ledger is not None:
            flow = _flow(rules, ctx.operation, (y, back), zip(operands, shares, ctx.needs_input_grad[3:], strict=True))
            ctx.propagation.ledger.append((ctx.operation, flow))
        return None, None, None, *map(_fitted, shares, operands)


def is_unruled(tensor: Tensor) -> bool:
    """Whether it is what another autograd.Function gave: no mode sees such a call, so that no rule was laid beside it."""
    function = getattr(type(tensor.grad_fn), "_forward_cls", _Ruled)  # of a node in Python alone
    return function is not _Ruled


def _through(back: Tensor, y: Tensor, operands: tuple[Maybe, ...], operation: Operation) -> tuple[Maybe, ...]:
    return (back,)


def _fitted(share: Maybe, operand: Maybe) -> Maybe:
    """In the operand's shape and type: what went to copies of it made by broadcasting is added up."""
    if share is None or operand is None:
        return None
    return share.sum_to_size(operand.shape).to(operand.dtype)


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
