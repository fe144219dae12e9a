"""The algebra that explainers share: maps R [B, T, T] whose row i says how much of each input token is in token i."""

from collections.abc import Callable

import torch
from torch import Tensor

from xai.recording.recording import Event, Gradient, Recording, Score

Change = Callable[[Tensor, Event], Tensor]  # (R, event) to what is added to the rows of its queries, [B, q, T]


def identity(recording: Recording) -> Tensor:
    """Every token holds itself: [B, T, T]."""
    batch, tokens = recording.mask.shape
    like = recording.layers[0][0].A
    return torch.eye(tokens, device=like.device, dtype=like.dtype).repeat(batch, 1, 1)


def rownorm(M: Tensor) -> Tensor:
    """Rows divided by their sums; a row that sums to 0 stays as it is."""
    sums = M.sum(dim=-1, keepdim=True)
    return M / sums.where(sums != 0, 1)


def mean_attention(recording: Recording, event: Event) -> Tensor:
    """E_h A [B, q, k]; rows of padding, which the model computes and nobody reads, are zero."""
    return event.A.detach().mean(dim=1) * recording.mask[:, event.queries, None]


def evidence(event: Event, gradient: Gradient) -> Tensor:
    """E_h (∇A ⊙ A)⁺ [B, q, k] (GenAtt eq. 5)."""
    return (gradient.A * event.A.detach()).clamp(min=0).mean(dim=1)


def advance(R: Tensor, layer: tuple[Event, ...], change: Change) -> Tensor:
    """R after one layer, whose events all read R as it stood before it."""
    after = R.clone()
    for event in layer:
        after[:, event.queries] += change(R, event)
    return after


def fold(recording: Recording, change: Change, last: int | None = None) -> Tensor:
    """R after all layers, or the last ones, starting from the identity."""
    R = identity(recording)
    for layer in recording.last(last):
        R = advance(R, layer, change)
    return R


def readout_scores(recording: Recording, relevance: Tensor, target: Score) -> Tensor:
    """Returns scores [B, T] from a map [B, T, T]: the rows that the target reads. Padding gets 0."""
    if relevance.dim() == 3:
        weights = readout_weights(recording, target).to(relevance.dtype)
        relevance = (weights[:, None] @ relevance)[:, 0]
    return relevance * recording.mask


def readout_weights(recording: Recording, target: Score) -> Tensor:
    """Returns how much of each row counts for the target, [B, T].

    A target may say it: its `row` is a modality and a position (or one for each sample) in it. Of another target the rows
    are those by which it has a gradient: as the model's head weighs them, or equally where the head reads other rows.

    Raises:
        ValueError: the target reads padding, or no row that can be told.
    """
    row = getattr(target, "row", None)
    if row is None:
        return _weights_by_gradient(recording, target)
    modality, position = row
    if modality not in recording.modalities:
        raise ValueError(f"the target reads modality {modality!r}; the model has {', '.join(recording.modalities)}")
    where = recording.modalities[modality]
    index = torch.as_tensor(position, device=recording.readout.device).expand(len(recording.readout))
    if not ((index >= 0) & (index < where.stop - where.start)).all():
        raise ValueError(
            f"the target reads position {position} of {modality!r}, which has {where.stop - where.start} tokens"
        )
    return torch.zeros_like(recording.readout).scatter(1, where.start + index[:, None], 1)


def _weights_by_gradient(recording: Recording, target: Score) -> Tensor:
    head, rows = recording.readout.expand(recording.mask.shape), recording.rows_of(target)
    known = ~rows.any(dim=1, keepdim=True)  # a target without gradient reads what the head reads
    of_head = known | ((head != 0) >= rows).all(dim=1, keepdim=True)
    weights = torch.where(of_head, head * (rows | known), rows / rows.sum(dim=1, keepdim=True).clamp(min=1))
    if not weights.any(dim=1).all():
        raise ValueError(
            "it cannot be told which token the target reads; give one with a `row`, such as detection(query)"
        )
    padding = ((weights != 0) & ~recording.mask).nonzero()
    if len(padding):
        sample, position = padding[0].tolist()
        raise ValueError(
            f"sample {sample}: the target reads token {position}, which is padding. Pad on the right "
            '(tokenizer.padding_side = "right"); a target that averages tokens must leave padding out'
        )
    return weights
