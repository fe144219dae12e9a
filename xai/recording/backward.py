"""One backward pass, in which some gradients are kept, and others go as soon as something is made of them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

Passing = Mapping[int, Callable[[Tensor], Tensor]]
"""What is made of the gradient by a tensor, by the tensor's number."""
NONE: Passing = {}


def backward(score: Tensor, tensors: list[Tensor], last: bool, passing: Passing, weights: Tensor) -> dict[int, Tensor]:
    """Returns the gradients of the weighted scores [B] by tensors of the graph, or what is made of them, by the tensors' numbers.

    Of a tensor that is on no way to the scores there is none. After the `last` pass the graph is gone.
    """
    found: dict[int, Tensor] = {}
    whole = [number for number in range(len(tensors)) if number not in passing]
    with ExitStack() as hooks:
        for number, make in passing.items():
            hooks.callback(tensors[number].register_hook(partial(_keep, found, number, make)).remove)
        leaves = [*(tensors[number] for number in whole), *_first([tensors[number] for number in passing])]
        slopes = torch.autograd.grad(score, leaves, weights, retain_graph=not last, allow_unused=True)
    return found | {n: slope for n, slope in zip(whole, slopes, strict=False) if slope is not None}


def _keep(found: dict[int, Tensor], number: int, make: Callable[[Tensor], Tensor], slope: Tensor | None) -> None:
    if slope is not None:
        found[number] = make(slope)


def _first(tensors: list[Tensor]) -> list[Tensor]:
    """Those from which the graph leads to no other one: autograd goes as far as it is asked to, and so comes by all."""
    nodes = {tensor.grad_fn for tensor in tensors}
    return [tensor for tensor in dict.fromkeys(tensors) if not _leads(tensor.grad_fn, nodes)]


def _leads(start: Any, nodes: set[Any]) -> bool:
    """Whether one of the nodes is behind another one; none is behind a leaf, which has no node."""
    waiting, known = [start], {None}
    while waiting:
        node = waiting.pop()
        for other, _ in () if node is None else node.next_functions:
            if other is not None and other in nodes:
                return True
            if other not in known:
                known.add(other)
                waiting.append(other)
    return False
