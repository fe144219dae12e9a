"""Names of torch functions by what they do with tokens."""

from typing import Any

SAME = (
    "contiguous",
    "clone",
    "to",
    "type",
    "type_as",
    "float",
    "double",
    "half",
    "bfloat16",
    "dropout",
    "alias",
)
REDUCING = ("mean", "sum", "var", "std", "norm", "logsumexp", "prod", "vector_norm")
SPATIAL = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate")
CREATING = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli")
MORE_MOVES = ("masked_select", "scatter", "index_copy", "unfold", "pixel_unshuffle", "rot90", "tril", "triu", "take")
CHOOSING = ("topk", "sort", "argsort", "argmax", "argmin", "nonzero")  # of numbers
PRODUCTS = ("matmul", "einsum", "baddbmm")


def split_equation(args: list[Any]) -> tuple[str | None, str]:
    """Letters of the left operand of an einsum of two, and of its result; None if it is written in another way."""
    equation = args[0].replace(" ", "") if isinstance(args[0], str) else ""
    operands, arrow, out = equation.partition("->")
    if not arrow or operands.count(",") != 1 or "." in equation:
        return None, ""
    return operands.split(",")[0], out
