"""What raw attention and Grad-CAM share: each block of the joint axis shows the last event that has it."""

from collections.abc import Callable

import torch
from torch import Tensor

from xai.tape import Event, Tape


def last_map(tape: Tape, show: Callable[[Event], Tensor]) -> Tensor:
    """[B, T, T] of `show(event)` [B, q, k]; later events overwrite earlier ones, blocks without event are zero."""
    batch, tokens = tape.real.shape
    like = tape.layers[0][0].A
    R = torch.zeros(batch, tokens, tokens, device=like.device, dtype=like.dtype)
    for event in tape.events:
        R[:, event.queries, event.keys] = show(event).to(R.dtype)
    return R
