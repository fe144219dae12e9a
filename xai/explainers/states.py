"""Vectors of the tokens: what enters the model's first layers, and what they have become later."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

import torch
from jaxtyping import Float
from torch import Tensor

from xai.lrp.modified_gradient import Backward
from xai.recording.axis import Positions, count_of, within
from xai.recording.event import Event
from xai.recording.inputs import apart
from xai.recording.recording import Recording, Score

GRAPHS = 2**30  # bytes that several passes with a graph may take together
KEPT = 16  # tensors of a token's width that a layer's graph keeps, at a rough estimate

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
    recording: Recording, target: Score, changed: Iterable[Mapping[str, Tensor]], layer: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Yields the target's gradient at each of some changed states before a layer, by them: one more pass each.

    As many run in one batch as `at_once` says. The recorded states are in the first, once more: where the target is not what it
    was, or the model refuses more samples than were recorded, they run one after the other.
    """
    if recording.rerun is None:
        raise ValueError("this recording cannot run its model again; it was not made by `record`")
    known = vectors(standing(recording, layer))
    count, together, left = at_once(recording, known), False, iter(changed)
    while batch := list(islice(left, count)):
        try:
            slopes = _gradients_of(recording, target, batch, layer, known if len(batch) > 1 and not together else None)
        except Exception:  # whatever the model says of more samples; alone it says what is wrong with one
            if together or len(batch) == 1:
                raise
            count, left = 1, chain(batch, left)
            continue
        together = len(batch) > 1
        yield from slopes


def at_once(recording: Recording, x: Mapping[str, Tensor]) -> int:
    """Returns how many times all samples run in one batch: as often as their graphs take `GRAPHS` bytes, at a rough estimate."""
    samples = len(recording.mask) if recording.turns is None else recording.turns.samples
    tokens = samples * sum(count_of(event.queries) for event in recording.events)
    widest = max(x.values(), key=lambda values: values.shape[-1])
    return max(1, GRAPHS // (KEPT * tokens * widest.shape[-1] * widest.element_size()))


def _gradients_of(
    recording: Recording,
    target: Score,
    changed: Sequence[Mapping[str, Tensor]],
    layer: int,
    known: Mapping[str, Tensor] | None,
) -> list[dict[str, Tensor]]:
    """The gradients in one batch; raises ValueError if the target of the `known` states in it is not what was recorded."""
    assert recording.rerun is not None
    inputs = [*changed, *([] if known is None else [known])]
    states = {name: torch.cat([one[name] for one in inputs]) for name in changed[0]}
    scores, slopes = recording.rerun(states, layer).gradients(target)
    if known is not None and apart(scores[-len(recording.mask) :], recording.score(target).detach()).any():
        raise ValueError("the model, run again on several copies of the samples, does not say what was recorded")
    parts = {name: slope.unflatten(0, (len(inputs), -1)) for name, slope in slopes.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(changed))]


def times(recording: Recording, gradients: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    """Sums the products of gradients and vectors over the width, on the joint axis."""
    return laid(recording, {name: (gradients[name] * vectors[name]).sum(dim=-1) for name in vectors})


def laid(recording: Recording, parts: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    """Lays values [B, tokens] of modalities along the joint axis."""
    axis = torch.zeros(recording.mask.shape, dtype=next(iter(parts.values())).dtype, device=recording.mask.device)
    for name, values in parts.items():
        axis[:, recording.modalities[name]] = values
    return axis
