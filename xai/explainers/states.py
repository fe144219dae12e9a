"""Vectors of the tokens: what enters the model's first layers, and what they have become later."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from xai.lrp.modified_gradient import Backward
from xai.recording.axis import Positions, within
from xai.recording.event import Event
from xai.recording.recording import Recording, Score

State = dict[str, tuple[Event, Positions]]  # by modality, the event whose residual input holds it, and its rows there


def embedding(recording: Recording) -> State:
    """Finds the first event whose queries are a modality, of each; raises ValueError if there is none.

    Tokens that are made from others and only read have none.
    """
    state: State = {}
    for name, where in recording.modalities.items():
        event = recording.first_event(where)
        rows = None if event is None else event.rows(where)
        if event is not None and rows is not None:
            state[name] = event, rows
        elif name in recording.inputs:
            raise ValueError(
                f"modality {name!r} is never the queries of an attention: the recording has no embedding of it"
            )
    return state


def states(recording: Recording) -> list[State]:
    """Returns for each layer the last state of every modality: the residual input of its last event up to and with that layer.

    One that has not been queries yet has its embedding.
    """
    current, by_layer = embedding(recording), []
    for layer in recording.layers:
        for event in layer:
            events = ((name, event.rows(where)) for name, where in recording.modalities.items())
            current |= {name: (event, rows) for name, rows in events if rows is not None}
        by_layer.append(dict(current))
    return by_layer


def standing(recording: Recording, layer: int) -> State:
    """Finds the states before a layer that all that comes after is made from: a cut through the model.

    It is the residual input of each modality's first event from that layer on. One that is no longer queries has its last; of
    tokens that are made from others there are either those or the others.

    Raises:
        ValueError: there is no such layer, or a modality is never queries.
    """
    if not 0 <= layer < len(recording.layers):
        raise ValueError(f"layer is {layer}; this recording has layers 0 to {len(recording.layers) - 1}")
    first, later = embedding(recording), [event for events in recording.layers[layer:] for event in events]
    state: State = {}
    for name in first:
        found = ((event, event.rows(recording.modalities[name])) for event in later)
        at = next(((event, rows) for event, rows in found if rows is not None), None)
        if at is not None:
            state[name] = at
    made: set[str] = set()  # from tokens that are states here, so that they are none
    for name, link in recording.links.items():
        made |= {name} if link.origin in {*state, *made} else set()
    state = {name: at for name, at in state.items() if name not in made}
    origins = {link.origin for name, link in recording.links.items() if name not in made}
    ended = [name for name in first if name not in {*state, *made, *origins}]
    return state | {name: states(recording)[layer][name] for name in ended}


def side_by_side(
    recording: Recording, event: Event, tokens: slice, state: State, value: Callable[[Event], Tensor]
) -> Float[Tensor, "B k D"]:
    """Lays `value(event)` [B, q, D] of the states of an event's queries or keys side by side.

    Raises:
        ValueError: some have no state; names the module.
    """
    places = {name: within(where, tokens) for name, where in recording.modalities.items()}
    inside = {name: place for name, place in places.items() if place is not None}
    if unknown := inside.keys() - state.keys():
        raise ValueError(f"module {event.module!r} reads {', '.join(sorted(unknown))}, of which no layer has a state")
    parts = {name: value(state[name][0])[:, state[name][1]] for name in inside}
    first = next(iter(parts.values()))
    x = first.new_zeros(len(first), tokens.stop - tokens.start, first.shape[-1])
    for name, part in parts.items():
        x[:, inside[name]] = part
    return x


def along(recording: Recording, state: State, value: Callable[[Event], Tensor]) -> Float[Tensor, "B T"]:
    """Lays `value(event)` [B, q] of each modality's event along the joint axis; 0 for one that has no event."""
    return laid(recording, {name: value(event)[:, rows] for name, (event, rows) in state.items()})


def embeddings(recording: Recording) -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns what enters the first layers, [B, tokens, D] of each modality that is made from no other one."""
    return vectors(standing(recording, 0))


def vectors(state: State) -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns [B, tokens, D] of each modality."""
    return {name: event.Y.detach()[:, rows] for name, (event, rows) in state.items()}


def gradients(
    recording: Recording, target: Score, backward: Backward = "autograd"
) -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns the target's gradient by `embeddings`."""
    gradients = recording.gradients(target, backward)
    return {name: gradients[event].Y[:, rows] for name, (event, rows) in standing(recording, 0).items()}


def gradients_at(
    recording: Recording, target: Score, changed: Mapping[str, Tensor], layer: int = 0
) -> dict[str, Tensor]:
    """Returns the target's gradient at changed states before a layer, by them: one more pass, forward and backward."""
    if recording.rerun is None:
        raise ValueError("this recording cannot run its model again; it was not made by `record`")
    return recording.rerun(changed, layer).gradients(target)


def times(recording: Recording, gradients: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    """Sums the products of gradients and vectors over the width, on the joint axis."""
    return laid(recording, {name: (gradients[name] * vectors[name]).sum(dim=-1) for name in vectors})


def laid(recording: Recording, parts: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    """Lays values [B, tokens] of modalities along the joint axis."""
    axis = torch.zeros(recording.mask.shape, dtype=next(iter(parts.values())).dtype, device=recording.mask.device)
    for name, values in parts.items():
        axis[:, recording.modalities[name]] = values
    return axis
