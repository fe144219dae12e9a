"""Relevance of what a recording recorded: one backward pass by a table of rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from xai.lrp.propagation import Flow, Operation, Rules
from xai.recording.axis import Positions
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


@dataclass(frozen=True, eq=False)
class Relevances:
    """Relevance of every attention map, [B, H, q, k], of the tokens as they enter their first attention, and of pixels."""

    A: Mapping[Event, Tensor]
    tokens: Tensor  # [B, T]
    pixels: Tensor | None  # [B, rows, columns]; None unless recorded from the pixels


def relevances(recording: Recording, target: Score, rules: Rules) -> Relevances:
    """Relevance for `target`, from one backward pass; kept on the recording for the next caller.

    Raises ValueError for a recording recorded without `lrp`, PropagationError for a target that has an operation without rule.
    """
    if (target, rules) not in recording.relevances:
        recording.relevances[target, rules] = propagate(recording, target, rules)[0]
    return recording.relevances[target, rules]


def propagate(
    recording: Recording, target: Score, rules: Rules, audit: bool = False
) -> tuple[Relevances, Tensor, list[tuple[Operation, Flow]]]:
    """The relevances, the start relevance [B] and, with `audit`, the flow of every operation."""
    if audit and recording.turns is not None:
        raise ValueError("the flow of relevance can be checked of one target at a time; explain one step alone")
    entries, events = _entries(recording), recording.events if "A" in recording.reads.gradients else ()
    wanted, tree = tree_flatten(
        (
            [event.in_graph.A for event in events],
            [event.in_graph.Y for event, _ in entries],
            [] if recording.pixels is None else [recording.pixels],
        )
    )
    score, backs, ledger = recording.backward_by(rules, target, wanted, audit)
    found = [
        recording.nothing(tensor) if back is None else rules.relevance(tensor, back)
        for tensor, back in zip(wanted, backs, strict=True)
    ]
    maps, states, pixels = tree_unflatten(found, tree)
    like = states[0] if states else found[0]  # maps may be in single precision where the states are in double
    tokens = torch.zeros(recording.mask.shape, dtype=like.dtype, device=like.device)
    for (event, where), relevance in zip(entries, states, strict=True):
        rows = event.rows(where)
        assert rows is not None
        tokens[:, where] = event.state(relevance)[:, rows].sum(dim=-1).to(tokens.dtype)
    start = rules.relevance(score, torch.ones_like(score)).detach()
    by_event = {event: event.maps(parts) for event, parts in zip(events, maps, strict=True)}
    images = [values if recording.turns is None else recording.turns.rows(values.flatten(0, 1)) for values in pixels]
    return Relevances(by_event, tokens, images[0].sum(dim=1) if images else None), start, ledger


def _entries(recording: Recording) -> list[tuple[Event, Positions]]:
    """The first event of each modality that is made from no other, and its positions."""
    firsts = ((recording.first_event(where), where) for where in recording.inputs.values())
    return [(event, where) for event, where in firsts if event is not None]
