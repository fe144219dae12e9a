"""Vectors of the tokens: what enters the model's first layers, and what they have become later."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from xai.recording.recording import Event, Recording, Score

State = dict[str, tuple[Event, slice]]  # by modality, the event whose residual input holds it, and its rows there


def embedding(recording: Recording) -> State:
    """Finds where each modality asks for the first time; raises ValueError if one never does."""
    state: State = {}
    for name, where in recording.modalities.items():
        asking = ((event, event.rows(where)) for event in recording.events)
        first = next(((event, rows) for event, rows in asking if rows is not None), None)
        if first is None:
            raise ValueError(f"modality {name!r} asks nothing in any attention: the recording has no embedding of it")
        state[name] = first
    return state


def states(recording: Recording) -> list[State]:
    """Returns for each layer the last state of every modality: the residual input of its last event up to and with that layer.

    A modality that has not asked yet has its embedding.
    """
    current, by_layer = embedding(recording), []
    for layer in recording.layers:
        for event in layer:
            asking = ((name, event.rows(where)) for name, where in recording.modalities.items())
            current |= {name: (event, rows) for name, rows in asking if rows is not None}
        by_layer.append(dict(current))
    return by_layer


def along(state: State, value: Callable[[Event], Tensor]) -> Float[Tensor, "B T"]:
    """Lays `value(event)` [B, q] of each modality's event along the joint axis."""
    return torch.cat([value(event)[:, rows] for event, rows in state.values()], dim=1)


def embeddings(recording: Recording) -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns what enters the first layers, [B, tokens, D] of each modality."""
    return {name: event.Y.detach()[:, rows] for name, (event, rows) in embedding(recording).items()}


def gradients(recording: Recording, target: Score) -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns the target's gradient by `embeddings`."""
    gradients = recording.gradients(target)
    return {name: gradients[event].Y[:, rows] for name, (event, rows) in embedding(recording).items()}


def gradients_at(recording: Recording, target: Score, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the target's gradient at changed embeddings, by them: one more pass of the model, forward and backward."""
    if recording.rerun is None:
        raise ValueError("this recording cannot run its model again; it was not made by `record`")
    return recording.rerun(changed).gradients(target)


def times(gradients: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Float[Tensor, "B T"]:
    """Sums the products of gradients and vectors over the width, on the joint axis."""
    return torch.cat([(gradients[name] * vectors[name]).sum(dim=-1) for name in vectors], dim=1)
