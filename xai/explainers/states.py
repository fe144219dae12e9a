"""The tokens' own vectors: what enters the model's first layers, and what they have become later."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from xai.recording.recording import Event, Recording, Score

State = dict[str, tuple[Event, slice]]  # by modality, the event whose residual input holds it, and its rows there


def embedding(recording: Recording) -> State:
    """Where each modality asks for the first time; raises ValueError if one never does."""
    found: State = {}
    for name, where in recording.modalities.items():
        asking = ((event, event.rows(where)) for event in recording.events)
        first = next(((event, rows) for event, rows in asking if rows is not None), None)
        if first is None:
            raise ValueError(f"modality {name!r} asks nothing in any attention: the recording has no embedding of it")
        found[name] = first
    return found


def states(recording: Recording) -> list[State]:
    """For each layer the last state of every modality: the residual input of its last event up to and with that layer.

    A modality that has not asked yet has its embedding.
    """
    current, found = embedding(recording), []
    for layer in recording.layers:
        for event in layer:
            asking = ((name, event.rows(where)) for name, where in recording.modalities.items())
            current |= {name: (event, rows) for name, rows in asking if rows is not None}
        found.append(dict(current))
    return found


def along(state: State, value: Callable[[Event], Tensor]) -> Tensor:
    """`value(event)` [B, q] of each modality's event, on the joint axis [B, T]."""
    return torch.cat([value(event)[:, rows] for event, rows in state.values()], dim=1)


def embeddings(recording: Recording) -> dict[str, Tensor]:
    """What enters the first layers, [B, tokens, D] of each modality."""
    return {name: event.Y.detach()[:, rows] for name, (event, rows) in embedding(recording).items()}


def gradients(recording: Recording, target: Score) -> dict[str, Tensor]:
    """The target's gradient by `embeddings`."""
    gradients = recording.gradients(target)
    return {name: gradients[event].Y[:, rows] for name, (event, rows) in embedding(recording).items()}


def gradients_at(recording: Recording, target: Score, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The target's gradient by the changed embeddings where they are these; one more pass of the model, forward and backward."""
    if recording.rerun is None:
        raise ValueError("this recording cannot run its model again; it was not made by `record`")
    return recording.rerun(changed).gradients(target)


def times(gradients: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
    """The products of gradients and vectors summed over the width, on the joint axis [B, T]."""
    return torch.cat([(gradients[name] * vectors[name]).sum(dim=-1) for name in vectors], dim=1)
