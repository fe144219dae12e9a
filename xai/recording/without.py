"""The recorded call once more, on any number of inputs, without some of their tokens: for methods that ask what if."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from xai.recording.adapter import Adapter
from xai.recording.hidden import Hidden
from xai.recording.recording import Recording, Score, Without
from xai.recording.rerun import Call


def without(call: Call, adapter: Adapter, recording: Recording, target: Score, factor: float | None = None) -> Without:
    """Returns what runs a recorded call on its samples, each as often as is asked for, with tokens hidden from all attentions.

    Args:
        call: the recorded one.
        adapter: with which it was recorded.
        recording: of the call, or one whose rows share its samples.
        target: what is looked at.
        factor: by which tokens are suppressed in the place of being hidden, as of `Hidden`; None hides them.
    """
    hidden = Hidden(call.model, adapter, recording, target, factor)
    samples = len(recording.mask) if recording.turns is None else recording.turns.samples

    @torch.no_grad()
    def run(keep: Tensor, rows: Tensor) -> Any:
        args, kwargs = tree_map(lambda value: _rows_of(value, samples, rows), (call.args, call.kwargs))
        with call.autocast, hidden.all_except_for(keep, rows):
            return call.model(*args, **kwargs)

    return run


def _rows_of(value: Any, samples: int, rows: Tensor) -> Any:
    """An argument of some samples; one that is not of samples, such as a number, stays as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) % samples:
        return value
    if value.dim() == 1 and len(value) != samples:
        return value  # such as positions, which all samples share
    return value.unflatten(0, (samples, -1))[rows.to(value.device)].flatten(0, 1)
