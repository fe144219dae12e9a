"""The recorded call once more, on any number of inputs, without some of their tokens: for methods that ask what if."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_map

from xai.recording.adapter import Adapter
from xai.recording.hidden import Hidden
from xai.recording.inputs import rows_of
from xai.recording.recording import Recording, Score, Without
from xai.recording.rerun import Call, rerun


def without(
    call: Call, adapter: Adapter, whole: Recording, recording: Recording, target: Score, factor: float | None = None
) -> Without:
    """Returns what runs a recorded call on its samples, each as often as is asked for, with tokens taken away.

    They are hidden from all attentions, which for patches is the same as leaving them out. Where that does not take them away
    (the target reads them itself, an attention has no mask, or several are merged into one) they stay, with the mean
    embedding of their modality in the place of their own.

    Args:
        call: the recorded one.
        adapter: with which it was recorded.
        whole: the recording of the call.
        recording: that one, or one whose rows share its samples.
        target: what is looked at.
        factor: by which tokens are suppressed in the place of being hidden, as of `Hidden`; None hides them.
    """
    if factor is None:
        hidden = _hidden(call, adapter, recording, target)
    else:
        hidden = Hidden(call.model, adapter, recording, target, factor)
    embeddings = {} if hidden is not None else _embeddings(whole)

    @torch.no_grad()
    def run(keep: Tensor, rows: Tensor) -> Any:
        args, kwargs = tree_map(lambda value: rows_of(value, len(whole.mask), rows), (call.args, call.kwargs))
        if hidden is None:
            again = call._replace(args=args, kwargs=kwargs)
            changed = {name: _blank(values, whole, name, keep, rows) for name, values in embeddings.items()}
            return rerun(again, adapter, len(rows), whole.modalities, changed, graph=False).output
        with call.autocast, hidden.all_except_for(keep, rows):
            return call.model(*args, **kwargs)

    return run


def _hidden(call: Call, adapter: Adapter, recording: Recording, target: Score) -> Hidden | None:
    """What hides tokens of the recorded call; None where hiding does not take all content away."""
    hidden = Hidden(call.model, adapter, recording, target)
    content = recording.removable(target)
    try:
        for name, where in recording.inputs.items():
            hidden.require(name, content[:, where])
    except ValueError:
        return None
    return hidden


def _embeddings(whole: Recording) -> dict[str, Float[Tensor, "B _ _"]]:
    found = {}
    for name, where in whole.inputs.items():
        event = whole.first_event(where)
        rows = None if event is None else event.rows(where)
        if event is not None and rows is not None:
            found[name] = event.Y.detach()[:, rows]
    return found


def _blank(
    values: Float[Tensor, "B tokens D"], whole: Recording, name: str, keep: Bool[Tensor, "N T"], rows: Tensor
) -> Float[Tensor, "N tokens D"]:
    """The embeddings of a modality, with the mean of the real ones where a token is taken away."""
    where = whole.modalities[name]
    real = (whole.mask & ~whole.special)[:, where, None].to(values)
    mean = (values * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return values[rows].where(keep[:, where, None], mean[rows])
