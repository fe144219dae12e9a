"""The record of one forward pass: all of a model's attentions, on one joint axis of tokens.

Shapes in this package: B batch, H heads, T tokens of all modalities together, q and k tokens of an event's queries and
keys, D width. A modality is a set of positions on the joint axis: a slice where they are neighbours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from xai.lrp.mode import PropagationError
from xai.lrp.modified_gradient import Backward, rules_of
from xai.lrp.propagation import ALONE, Flow, Operation, Propagation, Rules
from xai.lrp.ruling import Ruling
from xai.recording.axis import Link, Positions, count_of, within
from xai.recording.backward import NONE, Passing, backward
from xai.recording.event import MEANS, Event, Gradient, Gradients, InGraph
from xai.recording.head import Head
from xai.recording.reads import EVERYTHING, Reads, first_layer, last_of
from xai.recording.rerun import RunAgain
from xai.recording.turns import Turns

Score = Callable[[Any], Tensor]  # the model's outputs to one number a sample, [B]
Without = Callable[[Tensor, Tensor], Any]
"""From tokens [N, T] of the joint axis that stay, and which sample of the pass each row is of [N], to the outputs of N inputs."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Layers of simultaneous events: those of one layer all read the state before it.

    `rerun` runs the recorded call once more with other states, `without` without some of its tokens, `suppressed` with less
    attention to them, by a factor. None if the recording was not recorded.
    """

    layers: tuple[tuple[Event, ...], ...]
    modalities: dict[str, Positions]
    readout: Tensor  # [B or 1, T]: how much of each token's row the model's head reads
    mask: Tensor  # [B, T], False at padding
    special: Tensor  # [B, T], True at tokens that are no content
    grids: dict[str, tuple[int, int]]  # rows and columns of the tokens of image modalities that are not special
    output: Any
    rerun: RunAgain | None = field(default=None, repr=False)
    propagation: Propagation | None = field(default=None, repr=False)  # None: recorded without rules for relevance
    pixels: Tensor | None = field(default=None, repr=False)  # [B, C, rows, columns] if the graph starts at them
    links: Mapping[str, Link] = field(
        default_factory=dict
    )  # of modalities made from others, in the order of their streams
    turns: Turns | None = None  # of rows that share the samples of the pass; None: every sample is one row
    without: Callable[["Recording", Score], Without] | None = field(default=None, repr=False)
    find_heads: Callable[[], tuple[Head, ...]] = field(default=tuple, repr=False)
    suppressed: Callable[["Recording", Score, float], Without] | None = field(default=None, repr=False)
    reads: Reads = EVERYTHING  # what it keeps
    relevances: dict[Any, Any] = field(default_factory=dict, repr=False)  # found so far, for xai.lrp.relevances
    games: dict[Any, Any] = field(default_factory=dict, repr=False)  # played so far, for xai.games
    _gradients: dict[tuple[Score, Backward], Gradients] = field(default_factory=dict, repr=False)
    _rows: dict[Score, Tensor] = field(default_factory=dict, repr=False)

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(event for layer in self.layers for event in layer)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """How the streams that the outputs are read from end; none where that is not known."""
        with torch.inference_mode(False), torch.enable_grad():
            return self.find_heads()

    @property
    def inputs(self) -> dict[str, Positions]:
        """The modalities whose tokens are made from no other ones: those that have scores in the end."""
        return {name: where for name, where in self.modalities.items() if name not in self.links}

    @property
    def content(self) -> Tensor:
        """[B, tokens of all inputs one modality after the other], True where a token is neither padding nor special."""
        content = self.mask & ~self.special
        return torch.cat([content[:, tokens] for tokens in self.inputs.values()], dim=1)

    def first_event(self, tokens: Positions) -> Event | None:
        """The first event whose queries these tokens are."""
        return next((event for event in self.events if event.rows(tokens) is not None), None)

    @cached_property
    def _firsts(self) -> frozenset[Event | None]:
        return frozenset(self.first_event(tokens) for tokens in self.modalities.values())

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

    def gradients(self, target: Score, backward: Backward = "autograd") -> Gradients:
        """The gradients of `target` by the tensors of events, from one backward pass; kept for the next caller.

        The targets of a batch are summed, which leaves each sample its own gradient.

        Args:
            target: from the model's outputs to one number a sample, [B].
            backward: "autograd" for the model's own gradient; "libra" or "attn_lrp" for one modified by their rules, for which
                the recording must have been made with rules.

        Raises:
            ValueError: the target is not one finite number a sample, or was cut off the graph; a recording without rules.
            PropagationError: the target has an operation without rule.
        """
        if (target, backward) not in self._gradients:
            with torch.inference_mode(False), torch.enable_grad():
                self._gradients[target, backward] = self._differentiate(target, backward)
        return self._gradients[target, backward]

    def fresh(self) -> "Recording":
        """The same record without what was found on it so far, which takes memory for every target."""
        return replace(self, relevances={}, games={}, _gradients={}, _rows={})

    def rows_of(self, target: Score) -> Tensor:
        """Finds the rows that `target` reads after the last attention: those by which it has a gradient.

        Returns:
            [B, T], False throughout for a sample of which the target has no gradient at all. Tokens that other tokens
            still read after their own last attention, as an encoder's are read by a decoder, or that others are made
            from, count as not read.
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

    def backward(
        self, score: Tensor, tensors: list[Tensor], last: bool = False, passing: Passing = NONE
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the rows' scores [B] by tensors of the graph, from one backward pass; after the `last` it is gone.

        The scores of samples are summed, which leaves each its own; rows that share samples have theirs by turns
        [turns, ...], which `Event.maps` and `Event.state` sort out. None for a tensor that is on no way to the scores.
        Of the tensors whose numbers are `passing`, what is made of the gradient as it comes.
        """
        back = partial(backward, score, tensors, last, passing)
        found = back(torch.ones_like(score)) if self.turns is None else vmap(back)(self.turns.weights(score))
        return tuple(map(found.get, range(len(tensors))))

    def backward_by(
        self, rules: Rules, target: Score, tensors: list[Tensor], audit: bool = False, passing: Passing = NONE
    ) -> tuple[Tensor, tuple[Tensor | None, ...], list[tuple[Operation, Flow]]]:
        """The score [B], what rules send back from it to tensors of the graph, as `backward`, and with `audit` all flows."""
        if self.propagation is None:
            raise ValueError(
                "the recording was recorded without rules: record with lrp='tokens' (or 'pixels') for LRP methods, and "
                "for gradients with another backward than 'autograd'"
            )
        if self.propagation.alone not in (None, rules):
            raise ValueError(ALONE.format(self.propagation.alone.name))
        last = self.is_last(target)
        with torch.inference_mode(False), torch.enable_grad():
            with Ruling(self.propagation, "target"):
                score = target(self.output)
            if not score.requires_grad:
                raise PropagationError("the target has no relevance to pass on: it must come from the model's outputs")
            with self.propagation.by(rules, audit) as ledger:
                return score, self.backward(score, tensors, last, passing), ledger

    def is_last(self, target: Score) -> bool:
        """Whether the next backward pass is the last. The rows that the target reads need the graph too, and are found first.

        A graph of one table of rules alone has no gradients that would tell them.
        """
        if self.reads.once and self.reads.rules is None:
            self.rows_of(target)
        return self.reads.once

    def nothing(self, tensor: Tensor) -> Tensor:
        """Zeros of the shape that `backward` gives for a tensor."""
        return tensor.new_zeros((*(() if self.turns is None else (self.turns.count,)), *tensor.shape))

    def removable(self, target: Score) -> Tensor:
        """The content [samples, T] that can be taken away. Of rows that share a pass, what a target reads itself stays.

        No hiding from attention takes that away, as the words of a text for the next one.
        """
        content = self.mask & ~self.special
        return content if self.turns is None else self.turns.any(content) & ~self.turns.any(self.rows_of(target))

    def _rows_with_gradient(self, target: Score) -> Tensor:
        rows = torch.zeros_like(self.mask)
        last = self._last_events
        known = self._gradients.get((target, "autograd"), {})
        if all(event in known and "Y_out" in known[event].in_graph.kept for event in last.values()):
            gradients = [known[event].Y_out for event in last.values()]
        else:  # as far as the last layers only
            score, ends = self.score(target), [event.in_graph.Y_out for event in last.values()]
            if not score.requires_grad:
                return rows
            gradients = [
                event.state(self.nothing(end) if gradient is None else gradient)
                for event, end, gradient in zip(last.values(), ends, self.backward(score, ends), strict=True)
            ]
        for (name, event), gradient in zip(last.items(), gradients, strict=True):
            where = self.modalities[name]
            rows[:, where] = (gradient[:, event.rows(where)] != 0).any(dim=-1) & ~self._goes_on(name)
        return rows

    @cached_property
    def _last_events(self) -> dict[str, Event]:
        """The last attention of each modality that has tokens which no other ones read afterwards, or are made from."""
        last = last_of(
            self.layers,
            self.modalities,
            lambda event, name: event.rows(self.modalities[name]) is not None,
            lambda event, name: within(self.modalities[name], event.keys) is not None,
        )
        return {name: event for name, event in last.items() if not self._goes_on(name).all()}

    def _goes_on(self, name: str) -> Tensor:
        """Of which tokens of a modality others are made."""
        made = [link.weights.any(dim=0) for link in self.links.values() if link.origin == name]
        nothing = torch.zeros(count_of(self.modalities[name]), dtype=torch.bool, device=self.mask.device)
        return torch.stack([nothing, *made]).any(dim=0)

    def _differentiate(self, target: Score, backward: Backward) -> Gradients:
        rules, score = rules_of(backward), self.score(target)
        if not score.requires_grad:
            raise ValueError(
                "the target has no gradient: it must be computed from the model's outputs without detaching them"
            )
        wanted = [
            (event, slope, part)
            for layer in self.layers[first_layer(len(self.layers), self.reads) :]
            for event in layer
            for kind, parts in event.in_graph.kept.items()
            for slope in self.reads.slopes(kind, event in self._firsts)
            for part in parts
        ]
        if not wanted:
            raise ValueError("the pass was recorded for methods without gradients; record without `reads`")
        if rules is None:  # in the same pass, by what the rows are told that the target reads
            kept = {(event, kind) for event, kind, _ in wanted}
            ends = (event for event in self._last_events.values() if (event, "Y_out") not in kept)
            wanted += [(event, "Y_out", event.in_graph.Y_out) for event in dict.fromkeys(ends)]
        leaves, once = [part for *_, part in wanted], self.reads.once
        passing = {n: partial(event.mean, kind, A) for n, (event, kind, A) in enumerate(wanted) if kind in MEANS}
        if rules is None:
            slopes = self.backward(score, leaves, once, passing)
        else:
            slopes = self.backward_by(rules, target, leaves, passing=passing)[1]
        found: dict[Event, dict[str, tuple[Tensor, ...]]] = {}
        for (event, kind, part), slope in zip(wanted, slopes, strict=True):
            kinds = found.setdefault(event, {})
            like = part[:, :1] if kind in MEANS else part
            kinds[kind] = (*kinds.get(kind, ()), self.nothing(like) if slope is None else slope)
        reached = {
            event
            for (event, kind, _), slope in zip(wanted, slopes, strict=True)
            if kind in ("A", *MEANS) and slope is not None
        }
        return {event: Gradient(event, InGraph(kinds), event in reached) for event, kinds in found.items()}
