"""Whose turn it is in a batched backward pass: rows that share the samples of one pass of the model."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Turns:
    """Which sample of the pass each row is, [R], of how many samples.

    In one turn each sample stands for one of its rows at most. There are as many turns as the busiest sample has rows.
    """

    of: Int[Tensor, " R"]
    samples: int

    @cached_property
    def turn(self) -> Int[Tensor, " R"]:
        """At which turn it is a row's."""
        earlier = torch.tril(self.of[:, None] == self.of[None], diagonal=-1)
        return earlier.sum(dim=1)

    @property
    def count(self) -> int:
        return int(self.turn.max()) + 1

    def weights(self, like: Tensor) -> Float[Tensor, "turns R"]:
        """1 where a row has its turn."""
        return (torch.arange(self.count, device=like.device)[:, None] == self.turn.to(like.device)).to(like)

    def rows(self, values: Tensor) -> Tensor:
        """Sorts what came back by turns, [turns samples, ...], into rows [R, ...]."""
        if self.samples == 1:
            return values  # turns are rows
        return values.unflatten(0, (self.count, self.samples))[self.turn.to(values.device), self.of.to(values.device)]

    def any(self, values: Tensor) -> Tensor:
        """Whether a value [R, ...] is true of one of a sample's rows, [samples, ...]."""
        found = torch.zeros(self.samples, *values.shape[1:], device=values.device)
        return found.index_add(0, self.of.to(values.device), values.float()) > 0

    def repeated(self, values: Tensor) -> Tensor:
        """Values [samples, ...] for each row, without a copy where there is one sample alone."""
        return values.expand(len(self.of), *values.shape[1:]) if len(values) == 1 else values[self.of.to(values.device)]
