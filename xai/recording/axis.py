"""The joint axis: where tokens are on it, which an attention in windows holds, and which are made from others."""

from collections.abc import Sequence
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


def tokens_of(state: Tensor, batch: int) -> Tensor:
    """A residual state [B, T, D] from one as a model may have it: of a grid [B, rows, columns, D], of images [B images, T, D]."""
    if state.dim() == 3 and len(state) == batch:
        return state
    return state.flatten(0, -2).unflatten(0, (batch, -1))


@dataclass(frozen=True, eq=False)
class Windows:
    """Which tokens attend to which, where an attention is computed in parts: windows of a grid, or images of one sample.

    There are one or more calls, each of n windows for every sample: [B n, H, q, k]. Positions are in the stream, -1 at padding.
    """

    queries: tuple[Tensor, ...]  # [n, q] of each call
    keys: tuple[Tensor, ...]  # [n, k]
    shape: tuple[int, int]  # tokens of the streams of queries and of keys
    states: int = 1  # rows of the residual state's own batch that are one sample

    def count(self, call: int) -> int:
        """Windows of a sample."""
        return len(self.queries[call])

    def maps(self, parts: Sequence[Tensor]) -> Tensor:
        """Lays what the calls have [B n, H, q, k] on the axis of all tokens, [B, H, T, T], with zeros outside of the windows."""
        queries, keys = self.shape
        batch, heads = len(parts[0]) // self.count(0), parts[0].shape[1]
        laid = parts[0].new_zeros(batch, heads, queries * keys + 1)  # the last takes what is of padding
        for part, q, k in zip(parts, self.queries, self.keys, strict=True):
            cells = (q[:, :, None] * keys + k[:, None]).masked_fill(
                (q[:, :, None] < 0) | (k[:, None] < 0), queries * keys
            )
            laid[:, :, cells.flatten().to(laid.device)] = part.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)
        return laid[..., :-1].unflatten(-1, self.shape)

    def rows(self, parts: Sequence[Tensor], of_keys: bool) -> Tensor:
        """Lays the vectors of queries or keys [B n, H, q, D] of the calls on the axis, [B, H, T, D]."""
        batch, heads, width = len(parts[0]) // self.count(0), parts[0].shape[1], parts[0].shape[-1]
        length = self.shape[of_keys]
        laid = parts[0].new_zeros(batch, heads, length + 1, width)
        for part, places in zip(parts, self.keys if of_keys else self.queries, strict=True):
            rows = places.masked_fill(places < 0, length).flatten().to(laid.device)
            laid[:, :, rows] = part.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
        return laid[:, :, :-1]
