"""What the operands of a call are: the tensors among its arguments, the letters of an einsum, shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors(value)


def split_equation(args: list[Any]) -> tuple[str | None, str]:
    """Letters of the left operand of an einsum of two, and of its result; None if it is written in another way."""
    equation = args[0].replace(" ", "") if isinstance(args[0], str) else ""
    operands, arrow, out = equation.partition("->")
    if not arrow or operands.count(",") != 1 or "." in equation:
        return None, ""
    return operands.split(",")[0], out


def replaced(value: Any, known: Mapping[int, Tensor]) -> Any:
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(replaced(part, known) for part in value)
    return known.get(id(value), value)


def stripped(shape: Any) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def is_suffix(shape: Any, whole: Any) -> bool:
    bare = stripped(shape)
    return len(bare) >= 2 and tuple(whole)[-len(bare) :] == bare
