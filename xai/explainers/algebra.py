"""Algebra that explainers share: maps R [B, T, T] whose row i says how much of each input token is in token i."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from xai.recording.axis import count_of, index_of
from xai.recording.event import Event
from xai.recording.recording import Recording, Score

Map = Float[Tensor, "B T T"]
Change = Callable[[Tensor, Event], Tensor]  # (R, event) to what is added to the rows of its queries, [B, q, T]


def identity(recording: Recording) -> Map:
    """Returns the map in which every token holds itself."""
    batch, tokens = recording.mask.shape
    like = recording.readout
    return torch.eye(tokens, device=like.device, dtype=like.dtype).repeat(batch, 1, 1)


def rownorm(M: Float[Tensor, "*axes q k"]) -> Float[Tensor, "*axes q k"]:
    """Divides rows by their sums; a row that sums to 0 stays as it is."""
    sums = M.sum(dim=-1, keepdim=True)
    return M / sums.where(sums != 0, 1)


def mean_attention(recording: Recording, event: Event) -> Float[Tensor, "B q k"]:
    """Returns E_h A; rows of padding, which the model computes and nobody reads, are zero."""
    return event.A.detach().mean(dim=1) * recording.mask[:, event.queries, None]


def advance(R: Map, layer: tuple[Event, ...], change: Change) -> Map:
    """Returns R after one layer, whose events all read R as it stood before it."""
    after = R.clone()
    for event in layer:
        after[:, event.queries] += change(R, event)
    return after


def fold(recording: Recording, change: Change, last: int | None = None) -> Map:
    """Returns R after all layers, or the last ones, starting from the identity."""
    R = identity(recording)
    for layer in recording.last(last):
        R = advance(R, layer, change)
    return traced_back(recording, R)


def traced_back(recording: Recording, R: Map, through_streams: bool = True) -> Map:
    """Moves what a map says of tokens that are made from others to those, so that the columns are the model's inputs.

    Args:
        recording: that of the map.
        R: after all layers.
        through_streams: a token of the earlier stream holds what its row says; False leaves it itself alone in the place of
            its own stream, for maps of one layer without a skip connection.
    """
    for name, link in reversed(list(recording.links.items())):
        tokens, origin = recording.modalities[name], recording.modalities[link.origin]
        rows, first = R[:, origin], recording.first_event(origin)
        if not through_streams and first is not None:
            rows = rows.clone()
            rows[:, :, first.queries] = identity(recording)[:, origin][:, :, first.queries]
        held = R[:, :, tokens] @ (link.weights @ rows)
        R = R.clone()
        R[:, :, tokens] = 0
        R += held
    return R


def scores_traced_back(recording: Recording, scores: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Moves scores of tokens that are made from others to those."""
    scores = scores.clone()
    for name, link in reversed(list(recording.links.items())):
        tokens, origin = recording.modalities[name], recording.modalities[link.origin]
        scores[:, origin] += scores[:, tokens] @ link.weights
        scores[:, tokens] = 0
    return scores


def readout_scores(recording: Recording, relevance: Map | Float[Tensor, "B T"], target: Score) -> Float[Tensor, "B T"]:
    """Reads scores off a map: the rows that the target reads. Padding gets 0."""
    if relevance.dim() == 3:
        weights = readout_weights(recording, target).to(relevance.dtype)
        relevance = (weights[:, None] @ relevance)[:, 0]
    return relevance * recording.mask


def shared_scores(pairs: Map) -> Float[Tensor, "B T"]:
    """Reads scores off a map of pairs: what a token has by itself, the diagonal, and half of each of its pairs.

    They sum to all that the map has, each pair once: of a quadratic f(M) = φ₀ + Σ φ_i M_i + Σ_{i<j} φ_ij M_i M_j to f(1) - f(0).

    Args:
        pairs: [B, T, T], the same above and below its diagonal.
    """
    alone = pairs.diagonal(dim1=1, dim2=2)
    return alone + (pairs.sum(dim=2) - alone) / 2


def readout_weights(recording: Recording, target: Score) -> Float[Tensor, "_ T"]:
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
    if not ((index >= 0) & (index < count_of(where))).all():
        raise ValueError(f"the target reads position {position} of {modality!r}, which has {count_of(where)} tokens")
    return torch.zeros_like(recording.readout).scatter(1, index_of(where).to(index.device)[index][:, None], 1)


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
