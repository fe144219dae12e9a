"""Which part of a call's arguments and outputs is one input's, so that a model runs on any number of its recorded inputs."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

PAIRWISE = ("logits_per_image", "logits_per_text")  # outputs of dual encoders: every image with every text
TOLERANCE = 0.02  # of a value of the whole input, run again, relative to 1 + its size


def rows_of(value: Any, samples: int, rows: Int[Tensor, " N"]) -> Any:
    """Returns an argument of some samples; one that is not of samples, such as a number, stays as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) % samples:
        return value
    if value.dim() == 1 and len(value) != samples:
        return value  # such as positions, which all samples share
    return value.unflatten(0, (samples, -1))[rows.to(value.device)].flatten(0, 1)


def part_of(outputs: Any, index: Int[Tensor, " B"], inputs: int) -> Any:
    """Returns the outputs of some inputs.

    Args:
        outputs: of a model: a tensor, or a mapping, a tuple or an object of them.
        index: [B], which of the inputs.
        inputs: how many there are. What has another first axis is kept as it is.
    """

    def taken(value: Any, name: str = "") -> Any:
        if isinstance(value, Tensor):
            if value.dim() == 0 or len(value) != inputs:
                return value
            rows = value[index.to(value.device)]
            return rows[:, index.to(value.device)] if name in PAIRWISE else rows
        if isinstance(value, dict):  # transformers' outputs too
            named = {key: taken(part, key) for key, part in value.items()}
            return named if type(value) is dict else type(value)(**named)
        if isinstance(value, list | tuple):
            parts = [taken(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    return taken(outputs)


def apart(again: Tensor, recorded: Tensor) -> Tensor:
    """Returns where a value, run again, is not what was recorded."""
    return (again - recorded).abs() > TOLERANCE * (1 + recorded.abs())
