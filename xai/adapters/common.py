"""What the tables of several families share."""

from collections.abc import Sequence
from itertools import zip_longest

from torch import nn

from xai.adapter import Site, Stream


def stack(model: nn.Module, layers: str, stream: Stream, module: str, residual: str, output: str) -> list[Site]:
    """Self-attention of each layer in the list named `layers`; the other names are inside a layer."""
    starts = [f"{layers}.{name}." for name, _ in model.get_submodule(layers).named_children()]
    return [Site(start + module, stream, stream, start + residual, start + output) for start in starts]


def side_by_side(*towers: Sequence[Site]) -> tuple[tuple[Site, ...], ...]:
    """Layers of towers that do not see each other; the last layers stand together, so that "last k" is k of each."""
    rows = zip_longest(*(reversed(tower) for tower in towers))
    return tuple(tuple(site for site in row if site is not None) for row in rows)[::-1]


def prefix_of(model: nn.Module) -> str:
    """How the names of modules start in a transformers model: with its encoder's name, if it has a head around it."""
    name = str(model.base_model_prefix)
    return f"{name}." if isinstance(getattr(model, name, None), nn.Module) else ""
