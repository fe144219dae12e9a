"""The steps at which texts were written, all in one pass over the whole texts (teacher forcing), as targets of their own."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xai.recording.reads import Reads
from xai.recording.recording import Recording
from xai.recording.rows import by_rows
from xai.targets import Target, logits

Figure = Literal[
    "logit", "log_probability", "margin"
]  # of a token at its step; "margin" is over the likeliest other one


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of a pass, each a row, text by text.

    Attributes:
        of: which sample of the pass each step's text is, [R].
        at: the position of the logits by which the step is decided, [R].
        tokens: the number of the token that was written, among the logits, [R].
        others: of the token it is compared with, [R]; None for none.

    Example:
        >>> import torch
        >>> from xai.generation.steps import Steps
        >>> steps = Steps(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([2, 1]))  # two tokens of one text
        >>> steps.target()(torch.tensor([[[0.0, 1.0, 5.0], [0.0, 3.0, 0.0]]])).tolist()
        [5.0, 3.0]
    """

    of: Int[Tensor, " R"]
    at: Int[Tensor, " R"]
    tokens: Int[Tensor, " R"]
    others: Int[Tensor, " R"] | None = None

    def target(self, figure: Figure = "logit") -> Target:
        """Makes the target, one number a step, from the pass's logits [B, positions, vocabulary]."""

        def score(outputs: Any) -> Float[Tensor, " R"]:
            rows = logits(outputs)[self.of, self.at]
            if self.others is not None:
                return _of(rows, self.tokens) - _of(rows, self.others)
            if figure == "log_probability":
                return _of(rows.log_softmax(dim=-1), self.tokens)
            if figure == "margin":
                others = rows.detach().scatter(1, self.tokens.to(rows.device)[:, None], -torch.inf)
                return _of(rows, self.tokens) - _of(rows, others.argmax(dim=-1))
            return _of(rows, self.tokens)

        def probability(outputs: Any) -> Float[Tensor, " R"]:
            return _of(logits(outputs)[self.of, self.at].softmax(dim=-1), self.tokens)

        return Target(
            "each token in turn" if figure == "logit" else f"{figure} of each token in turn",
            score,
            probability=probability if figure == "logit" and self.others is None else None,
        )

    def rows(self, recording: Recording, text: slice) -> Recording:
        """Makes a recording with a row for each step, in which what was written later does not count.

        Args:
            recording: of the pass.
            text: the stream on the joint axis whose positions are those of the logits.
        """
        read = text.start + self.at
        place = torch.arange(recording.mask.shape[1])
        later = (place > read[:, None]) & (place < text.stop)
        mask = recording.mask[self.of.to(recording.mask.device)] & ~later.to(recording.mask.device)
        return by_rows(recording, self.of, mask, read)


def text_stream(recording: Recording, name: str, length: int) -> slice:
    """Where the text with the written words is on the joint axis; raises ValueError unless its tokens are those of the ids."""
    event = recording.first_event(recording.modalities[name]) if name in recording.modalities else None
    if event is None or event.queries.stop - event.queries.start != length:
        found = "none" if event is None else str(event.queries.stop - event.queries.start)
        raise ValueError(
            f"the stream of {name!r} has {found} tokens for a text of {length}; a model with other tokens among those of its "
            f"text cannot be explained word by word. It has {', '.join(recording.modalities)}"
        )
    return event.queries


def of_words(wanted: Reads) -> Reads:
    """Returns what is read of a pass whose rows are words: also the maps, by which `require_order` checks it."""
    return replace(wanted, tensors=wanted.tensors | {"A"}, last=None, once=False)


def require_order(recording: Recording, text: slice, first: int | Int[Tensor, " B"]) -> None:
    """Checks that one pass over a whole text is what the model does word by word.

    Args:
        recording: of the pass.
        text: the stream of the text on the joint axis.
        first: the position in it from which the first word was written, one for all samples or for each.

    Raises:
        ValueError: something attends to a word that is written later; names the module.
    """
    starts = text.start + torch.as_tensor(first).reshape(-1, 1).cpu()  # [B or 1, 1]
    keys = torch.arange(text.start, text.stop)
    for event in recording.events:
        if not (event.keys.start <= text.start and text.stop <= event.keys.stop):
            continue
        queries = torch.arange(event.queries.start, event.queries.stop)
        written = (queries >= text.start) & (queries < text.stop)
        reach = torch.maximum(torch.where(written, queries, 0), starts)  # [B or 1, q]
        later = keys > reach[..., None]  # [B or 1, q, k]
        seen = event.A.detach()[..., text.start - event.keys.start : text.stop - event.keys.start] > 0
        if (seen & later[:, None].to(seen.device)).any():
            raise ValueError(
                f"module {event.module!r} attends to words that are written later, so one pass over the whole text is not what "
                "the model does word by word; explain each word by xai.explain, with the text before it"
            )


def _of(rows: Float[Tensor, "R V"], tokens: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    return rows.gather(1, tokens.to(rows.device)[:, None])[:, 0]
