"""The joint axis: where the tokens of a modality are on it, and which tokens are made from others."""

from dataclasses import dataclass

import torch
from torch import Tensor

# of tokens: a slice where they are neighbours, or else an index, which has the cells of a grid row by row
Positions = slice | Tensor


@dataclass(frozen=True, eq=False)
class Link:
    """What the tokens are made from with which a stream starts: those that an earlier stream ends with.

    A language model's image tokens are made from the patches of its vision tower, and a smaller grid from the one before.
    """

    origin: str  # a modality of the earlier stream
    weights: Tensor  # [tokens, those of the origin]: equal for all that a token is made from; rows sum to 1, or 0


def first_of(tokens: Positions) -> int:
    return int(tokens.start if isinstance(tokens, slice) else tokens.min())


def count_of(tokens: Positions) -> int:
    return int(tokens.stop - tokens.start if isinstance(tokens, slice) else len(tokens))


def index_of(tokens: Positions) -> Tensor:
    """The positions one by one."""
    return torch.arange(tokens.start, tokens.stop) if isinstance(tokens, slice) else tokens


def counted_from(tokens: Positions, start: int) -> Positions:
    return slice(tokens.start - start, tokens.stop - start) if isinstance(tokens, slice) else tokens - start


def within(tokens: Positions, span: slice) -> Positions | None:
    """The positions counted from the start of a span; None if they are not all in it."""
    last = tokens.stop - 1 if isinstance(tokens, slice) else int(tokens.max())
    return counted_from(tokens, span.start) if span.start <= first_of(tokens) and last < span.stop else None
