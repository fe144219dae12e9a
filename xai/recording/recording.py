"""The record of one forward pass: all of a model's attentions, on one joint axis of tokens.

Shapes in this package: B batch, H heads, T tokens of all modalities together, q and k tokens of an event's queries and
keys, D width. A modality is a set of positions on the joint axis: a slice where they are neighbours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from xai.lrp.propagation import Propagation
from xai.recording.axis import Link, Positions, within
from xai.recording.rerun import Again
from xai.recording.turns import Turns

Score = Callable[[Any], Tensor]  # the model's outputs to one number a sample, [B]


@dataclass(eq=False)
class QKV:
    """What goes into an attention, [B, H, q or k, D / H], and the weight [D, D] of the projection that follows it."""

    query: Tensor
    key: Tensor
    value: Tensor
    projection: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Event:
    """One attention: `queries` read `keys`, which are the same tokens (self-attention) or other ones."""

    module: str
    queries: slice
    keys: slice
    A: Tensor  # probabilities [B, H, q, k]
    Y: Tensor  # what the skip connection carries [B, q, D]
    Y_out: Tensor  # what the attention adds to it, after the output projection [B, q, D]
    qkv: QKV | None = None  # None: the model computes its softmax in plain code, which does not show them
    whole: tuple[Tensor, Tensor, Tensor] | None = None  # of a batch of its own, of which A, Y and Y_out are one sample
    sample: int = 0  # which
    turns: Turns | None = None  # of rows that share the samples of the pass

    @property
    def in_graph(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, Y and Y_out as the model has them, for gradients."""
        return self.whole or (self.A, self.Y, self.Y_out)

    def part(self, values: Tensor) -> Tensor:
        """The event's own part of what is found for a tensor of the graph, by turns if there are any."""
        if self.turns is not None:
            return self.turns.rows(values, self.sample)
        return values if self.whole is None else values[self.sample : self.sample + 1]

    @property
    def is_self(self) -> bool:
        return self.queries == self.keys

    def rows(self, tokens: Positions) -> Positions | None:
        """Which of the event's queries are these tokens of the joint axis; None if they are not among them."""
        return within(tokens, self.queries)


@dataclass(frozen=True, eq=False)
class Gradient:
    """The target's gradient by an event's tensors; zeros where the event is not `reached`, not on a way to the target."""

    A: Tensor
    Y: Tensor
    Y_out: Tensor
    reached: bool


Gradients = Mapping[Event, Gradient]


@dataclass(frozen=True, eq=False)
class Recording:
    """Layers of simultaneous events: those of one layer all read the state before it.

    `again` runs the recorded call once more with other embeddings, [B, tokens, D] of each modality that changes: what
    its first event has as residual input. None if the recording was not recorded.
    """

    layers: tuple[tuple[Event, ...], ...]
    modalities: dict[str, Positions]
    readout: Tensor  # [B or 1, T]: how much of each token's row the model's head reads
    mask: Tensor  # [B, T], False at padding
    special: Tensor  # [B, T], True at tokens that are no content
    grids: dict[str, tuple[int, int]]  # rows and columns of the tokens of image modalities that are not special
    output: Any
    rerun: Callable[[Mapping[str, Tensor]], Again] | None = field(default=None, repr=False)
    propagation: Propagation | None = field(default=None, repr=False)  # None: recorded without rules for relevance
    pixels: Tensor | None = field(default=None, repr=False)  # [B, C, rows, columns] if the graph starts at them
    links: Mapping[str, Link] = field(
        default_factory=dict
    )  # of modalities made from others, in the order of their streams
    turns: Turns | None = None  # of rows that share the samples of the pass; None: every sample is one row
    relevances: dict[Any, Any] = field(default_factory=dict, repr=False)  # found so far, for xai.lrp.relevances
    _gradients: dict[Score, Gradients] = field(default_factory=dict, repr=False)
    _rows: dict[Score, Tensor] = field(default_factory=dict, repr=False)

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(event for layer in self.layers for event in layer)

    @property
    def inputs(self) -> dict[str, Positions]:
        """The modalities whose tokens are made from no other ones: those that have scores in the end."""
        return {name: where for name, where in self.modalities.items() if name not in self.links}

    def first_event(self, tokens: Positions) -> Event | None:
        """The first event whose queries these tokens are."""
        return next((event for event in self.events if event.rows(tokens) is not None), None)

    def last(self, count: int | None) -> tuple[tuple[Event, ...], ...]:
        """The last `count` layers, all if None; raises ValueError if there are not so many.

        A layer is a step of simultaneous events: cross-attention and the self-attention after it are two.
        """
        if count is None:
            return self.layers
        if not 1 <= count <= len(self.layers):
            raise ValueError(
                f"last is {count}; this recording has {len(self.layers)} layers, so give 1 to {len(self.layers)} or None"
            )
        return self.layers[-count:]

    def gradients(self, target: Score) -> Gradients:
        """The gradients of `target` by all tensors of all events, from one backward pass; kept for the next caller.

        The targets of a batch are summed, which leaves each sample its own gradient. Raises ValueError if the target is
        not one finite number a sample, or was cut off the graph.
        """
        if target not in self._gradients:
            with torch.inference_mode(False), torch.enable_grad():
                self._gradients[target] = self._differentiate(target)
        return self._gradients[target]

    def fresh(self) -> "Recording":
        """The same record without what was found on it so far, which takes memory for every target."""
        return replace(self, relevances={}, _gradients={}, _rows={})

    def rows_of(self, target: Score) -> Tensor:
        """Finds the rows that `target` reads after the last attention: those by which it has a gradient.

        Returns:
            [B, T], False throughout for a sample of which the target has no gradient at all. Tokens that other tokens
            still read after their own last attention, as an encoder's are read by a decoder, count as not read.
        """
        if target not in self._rows:
            with torch.inference_mode(False), torch.enable_grad():
                self._rows[target] = self._rows_with_gradient(target)
        return self._rows[target]

    def score(self, target: Score) -> Tensor:
        """The target of each sample, [B]; raises ValueError if it is not one finite number a sample."""
        with torch.inference_mode(False), torch.enable_grad():
            score = target(self.output)
        if score.shape != self.mask.shape[:1]:
            raise ValueError(
                f"the target must be one number a sample, shape [{len(self.mask)}], but is {list(score.shape)}"
            )
        if not score.isfinite().all():
            bad = (~score.isfinite()).nonzero()[:, 0].tolist()
            raise ValueError(
                f"the target is not finite for samples {bad}; check the model's weights and inputs for NaN"
            )
        return score

    def slopes(self, score: Tensor, tensors: list[Tensor]) -> tuple[Tensor | None, ...]:
        """What comes back from the rows' scores [B] to tensors of the graph, in one backward pass.

        The scores of samples are summed, which leaves each its own; rows that share samples have theirs by turns
        [turns, ...], for `Event.part` to sort out. None for a tensor that is on no way to the scores.
        """
        if self.turns is None:
            return torch.autograd.grad(score.sum(), tensors, retain_graph=True, allow_unused=True)
        turns = self.turns.weights(score)
        return torch.autograd.grad(score, tensors, turns, retain_graph=True, allow_unused=True, is_grads_batched=True)

    def _rows_with_gradient(self, target: Score) -> Tensor:
        rows = torch.zeros_like(self.mask)
        last = self._last_events()
        if target in self._gradients:
            gradients = tuple(self._gradients[target][event].Y_out for event in last.values())
        else:  # as far as the last layers only
            score = self.score(target)
            if not score.requires_grad:
                return rows
            slopes = self.slopes(score, [event.in_graph[2] for event in last.values()])
            gradients = tuple(
                torch.zeros_like(event.Y_out) if slope is None else event.part(slope)
                for event, slope in zip(last.values(), slopes, strict=True)
            )
        for (name, event), gradient in zip(last.items(), gradients, strict=True):
            where = self.modalities[name]
            rows[:, where] = (gradient[:, event.rows(where)] != 0).any(dim=-1)
        return rows

    def _last_events(self) -> dict[str, Event]:
        """The last attention of each modality whose tokens no other ones read afterwards, or are made from."""
        last: dict[str, Event] = {}
        for name, tokens in self.modalities.items():
            for layer in self.layers:
                own = [event for event in layer if event.rows(tokens) is not None]
                if own:
                    last[name] = own[-1]
                elif any(within(tokens, event.keys) is not None for event in layer):
                    last.pop(name, None)
        for link in self.links.values():
            last.pop(link.origin, None)
        return last

    def _differentiate(self, target: Score) -> Gradients:
        score = self.score(target)
        if not score.requires_grad:
            raise ValueError(
                "the target has no gradient: it must be computed from the model's outputs without detaching them"
            )
        found = iter(self.slopes(score, [tensor for event in self.events for tensor in event.in_graph]))
        return {event: _gradient(event, next(found), next(found), next(found)) for event in self.events}


def _gradient(event: Event, A: Tensor | None, Y: Tensor | None, Y_out: Tensor | None) -> Gradient:
    def filled(gradient: Tensor | None, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if gradient is None else event.part(gradient)

    return Gradient(filled(A, event.A), filled(Y, event.Y), filled(Y_out, event.Y_out), reached=A is not None)
