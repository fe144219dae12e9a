"""The joint axis: where the tokens of a modality are on it, and which tokens are made from others."""

from dataclasses import dataclass

import torch
from torch import Tensor

Positions = slice | Tensor  # of tokens, in their order; a slice where they are neighbours


@dataclass(frozen=True, eq=False)
class Link:
    """Tokens with which a stream starts, made from those that an earlier stream ends with.

    A language model's image tokens are made from the patches of its vision tower, and a smaller grid from the one before.
    """

    modality: str  # of the later stream
    origin: str  # of the earlier one
    weights: Tensor  # [its tokens, those of the origin]: equal for all that a token is made from; rows sum to 1, or 0


def first_of(tokens: Positions) -> int:
    return int(tokens.start if isinstance(tokens, slice) else tokens[0])


def count_of(tokens: Positions) -> int:
    return int(tokens.stop - tokens.start if isinstance(tokens, slice) else len(tokens))


def index_of(tokens: Positions) -> Tensor:
    """The positions one by one."""
    return torch.arange(tokens.start, tokens.stop) if isinstance(tokens, slice) else tokens


def counted_from(tokens: Positions, start: int) -> Positions:
    return slice(tokens.start - start, tokens.stop - start) if isinstance(tokens, slice) else tokens - start


def within(tokens: Positions, span: slice) -> Positions | None:
    """The positions counted from the start of a span; None if they are not all in it."""
    last = tokens.stop - 1 if isinstance(tokens, slice) else int(tokens[-1])
    return counted_from(tokens, span.start) if span.start <= first_of(tokens) and last < span.stop else None
