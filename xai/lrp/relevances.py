"""Relevance of what a tape recorded: one backward pass by a table of rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xai.lrp.mode import PropagationError, Ruling
from xai.lrp.propagation import Flow, Operation, Rules
from xai.tape import Event, Score, Tape


@dataclass(frozen=True, eq=False)
class Relevances:
    """Relevance of every attention map, [B, H, q, k], of the tokens as they enter their first attention, and of pixels."""

    A: Mapping[Event, Tensor]
    tokens: Tensor  # [B, T]
    pixels: Tensor | None  # [B, rows, columns]; None unless recorded from the pixels


def relevances(tape: Tape, target: Score, rules: Rules) -> Relevances:
    """Relevance for `target`, from one backward pass; kept on the tape for the next caller.

    Raises ValueError for a tape recorded without `lrp`, PropagationError for a target that has an operation without rule.
    """
    if (target, rules) not in tape.relevances:
        tape.relevances[target, rules] = propagate(tape, target, rules)[0]
    return tape.relevances[target, rules]


def propagate(
    tape: Tape, target: Score, rules: Rules, audit: bool = False
) -> tuple[Relevances, Tensor, list[tuple[Operation, Flow]]]:
    """The relevances, the start relevance [B] and, with `audit`, the flow of every operation."""
    if tape.propagation is None:
        raise ValueError("the tape was recorded without rules: record with lrp='tokens' (or 'pixels') for LRP methods")
    maps, entries = [event.A for event in tape.events], _entries(tape)
    wanted = [*maps, *(event.Y for event, _ in entries), *([] if tape.pixels is None else [tape.pixels])]
    with torch.inference_mode(False), torch.enable_grad():
        with Ruling(tape.propagation, "target"):
            score = target(tape.output)
        if not score.requires_grad:
            raise PropagationError("the target has no relevance to pass on: it must come from the model's outputs")
        with tape.propagation.by(rules, audit) as ledger:
            backs = torch.autograd.grad(score.sum(), wanted, retain_graph=True, allow_unused=True)
    found = [
        torch.zeros_like(tensor) if back is None else rules.relevance(tensor, back)
        for tensor, back in zip(wanted, backs, strict=True)
    ]
    tokens = torch.zeros(tape.real.shape, dtype=maps[0].dtype, device=maps[0].device)
    for (event, where), relevance in zip(entries, found[len(maps) :], strict=False):
        rows = event.rows(where)
        assert rows is not None
        tokens[:, where] = relevance[:, rows].sum(dim=-1).to(tokens.dtype)
    pixels = None if tape.pixels is None else found[-1].sum(dim=1)
    start = rules.relevance(score, torch.ones_like(score)).detach()
    return Relevances(dict(zip(tape.events, found, strict=False)), tokens, pixels), start, ledger


def _entries(tape: Tape) -> list[tuple[Event, slice]]:
    """For each modality that asks, the first event in which it does, and its place on the joint axis."""
    found = []
    for where in tape.modalities.values():
        asked = (event for event in tape.events if event.rows(where) is not None)
        found += [(event, where) for event in list(asked)[:1]]
    return found
