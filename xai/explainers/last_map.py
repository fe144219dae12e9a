"""Shows in each block of the joint axis the last events that have it, for raw attention, Grad-CAM and Grad-ECLIP."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import traced_back
from xai.recording.event import Event
from xai.recording.recording import Recording


def last_map(recording: Recording, show: Callable[[Event], Tensor], count: int = 1) -> Float[Tensor, "B T T"]:
    """Sums in each entry `show(event)` [B, q, k] of its last `count` events; zero without event."""
    if count < 1:
        raise ValueError(f"last is {count}; give at least 1")
    batch, tokens = recording.mask.shape
    like = recording.readout
    R = torch.zeros(batch, tokens, tokens, device=like.device, dtype=like.dtype)
    counts = torch.zeros(tokens, tokens, dtype=torch.long)  # how many events each entry shows already
    for event in reversed(recording.events):
        block = counts[event.queries, event.keys]
        if (block < count).any():
            R[:, event.queries, event.keys] += show(event).to(R.dtype) * (block < count).to(R.device)
        block += 1
    return traced_back(recording, R, through_streams=False)
