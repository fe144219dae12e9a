"""What a model's own head says of states other than the last ones: the logit lens, and where image tokens are in its stream."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.recording.axis import within
from xai.recording.event import Event
from xai.recording.head import Head
from xai.recording.recording import Recording, Score

WORDS = ("text", "decoder")  # modalities that are no pictures


class Layer(NamedTuple):
    """An attention whose output the head's states have in them, and those states as the next attention takes them."""

    event: Event
    states: Tensor  # [samples of the pass, q, D], in the graph


def head_of(recording: Recording, method: str) -> Head:
    """Returns the one head by which the outputs are read; raises ValueError for a recording that does not show it."""
    if len(recording.heads) != 1:
        raise ValueError(
            f"{method} reads states by the model's own last norm and projection, and of this model they are not known: it is for "
            "generative models of transformers whose logits are a projection of normed states, and for mappers; another "
            "adapter may name them (`Adapter.heads`)"
        )
    return recording.heads[0]


def layers_of(recording: Recording, head: Head) -> list[Layer]:
    """Returns the attentions of a head's stream, each with the states after it.

    Layers of other streams, as those of a vision tower before a language model, have states of another space, which
    the head does not read.
    """
    events = [event for event in recording.events if event.module in head.attentions]
    spans = {(event.queries.start, event.queries.stop) for event in events}
    if len(spans) != 1 or any(event.windows is not None for event in events):
        raise ValueError("the attentions whose states the model's head reads are not all of one stream of tokens")
    last = events[-1].in_graph
    with torch.inference_mode(False), torch.enable_grad():
        after = [event.in_graph.Y for event in events[1:]] + [head.after(last.Y, last.Y_out)]
    return [Layer(*pair) for pair in zip(events, after, strict=True)]


def own_score(
    recording: Recording, head: Head, states: Tensor, target: Score, weights: Float[Tensor, "B q"] | None = None
) -> Float[Tensor, " R"]:
    """Returns the target of what the head says of some states of its stream; raises ValueError if it has no gradient by them.

    Args:
        recording: of the pass.
        head: one of its heads.
        states: [B, q, D], B the samples of the pass.
        target: one number a row.
        weights: of the states in the one that a pooled head reads; None where the head reads each state by itself.
    """
    if weights is not None and recording.turns is not None:
        raise ValueError(
            "several targets of one pass cannot be read from one state of each sample; give one of each sample"
        )
    with torch.inference_mode(False), torch.enable_grad():
        read = head.read(states if weights is None else (weights.to(states.dtype)[:, None] @ states)[:, 0])
        score = replace(recording.fresh(), output=head.said(read, recording.output)).score(target)
    if not score.requires_grad:
        raise ValueError(
            "the target reads nothing of what the model's head says; give one of its logits or similarities"
        )
    return score


def read_token(recording: Recording, target: Score, event: Event) -> Float[Tensor, "B q"]:
    """Returns 1 at the token of a stream that the target is read from; raises ValueError unless it is one of each sample."""
    rows = recording.rows_of(target)[:, event.queries]
    if not (rows.sum(dim=1) == 1).all():
        raise ValueError(
            f"the target is read from {rows.sum(dim=1).tolist()} tokens of the stream of module {event.module!r}, and must be "
            "from one of each sample, as similarity() or the logit of a class is"
        )
    return rows.to(recording.readout.dtype)


def attention_gradient(recording: Recording, score: Tensor, event: Event) -> Float[Tensor, "B H q k"]:
    """Returns the gradient of scores [B] by the probabilities of one attention; 0 if they do not depend on it."""
    leaves = list(event.in_graph.A)
    with torch.inference_mode(False), torch.enable_grad():
        found = zip(leaves, recording.backward(score, leaves), strict=True)
    return event.maps([recording.nothing(A) if gradient is None else gradient for A, gradient in found])


def pictures(recording: Recording, span: slice) -> Bool[Tensor, " k"]:
    """Returns which tokens of a part of the joint axis are no words."""
    found = torch.zeros(span.stop - span.start, dtype=torch.bool, device=recording.mask.device)
    for _, where in pictured(recording, span):
        found[where] = True
    return found


def pictured(recording: Recording, span: slice) -> Iterator[tuple[str, slice | Tensor]]:
    """Yields the modalities that are no words, and where they are in a part of the joint axis."""
    for name, where in recording.modalities.items():
        inside = within(where, span)
        if inside is not None and name not in WORDS:
            yield name, inside
