"""What is explained: callables from a model's outputs to one number a sample, [B]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai.recording.recording import Score

Index = int | Tensor  # one for all samples, or [B]


@dataclass(frozen=True, eq=False)
class Target:
    """A named score of the outputs; `row` is the modality and position it is read from, None for the model's own head.

    `choose` is there if the outputs decide the class: it gives the target of the class that they decide on.
    """

    name: str
    score: Callable[[Any], Tensor]
    row: tuple[str, Index] | None = None
    choose: "Callable[[Any], Target] | None" = None

    def __call__(self, outputs: Any) -> Tensor:
        return self.score(outputs)


def decided(target: Score, outputs: Any) -> Score:
    """`target` with its class as these outputs have it, for methods that run the model again with other inputs."""
    choose = getattr(target, "choose", None)
    return target if choose is None else choose(outputs)


def predicted() -> Target:
    """The largest logit of each sample."""
    return Target(
        "predicted",
        lambda outputs: logits(outputs).amax(dim=-1),
        choose=lambda outputs: given(logits(outputs).argmax(dim=-1)),
    )


def given(label: Index) -> Target:
    """The logit of a class."""
    return Target(f"given {_shown(label)}", lambda outputs: _pick(logits(outputs), label))


def difference(label: Index, other: Index) -> Target:
    """How far one class is above another: why this one rather than that?"""
    return Target(
        f"{_shown(label)} rather than {_shown(other)}",
        lambda outputs: _pick(logits(outputs), label) - _pick(logits(outputs), other),
    )


def token(position: Index, label: Index | None = None) -> Target:
    """A word that a caption model predicts at a position of its text, by default the likeliest."""
    return Target(
        f"token at {_shown(position)}",
        lambda outputs: _at(logits(outputs), position, label),
        ("text", position),
        None if label is not None else lambda outputs: token(position, _row(logits(outputs), position).argmax(dim=-1)),
    )


def detection(query: Index, label: Index | None = None) -> Target:
    """A class of one object query of a detector, by default the likeliest but the last, which is "no object"."""

    def objects(outputs: Any) -> Tensor:
        return logits(outputs)[..., :-1]

    return Target(
        f"query {_shown(query)}",
        lambda outputs: _at(objects(outputs) if label is None else logits(outputs), query, label),
        ("queries", query),
        None if label is not None else lambda outputs: detection(query, _row(objects(outputs), query).argmax(dim=-1)),
    )


def similarity() -> Target:
    """Logit of each image with the text of the same place in the batch (CLIP's, temperature included)."""
    return Target("similarity", _similarity)


def logits(outputs: Any) -> Tensor:
    """The logits among a model's outputs; raises TypeError if there are none."""
    if isinstance(outputs, Tensor):
        return outputs
    for name in ("logits", "question_answering_score"):
        found = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
        if found is not None:
            return found
    raise TypeError(f"no logits in {type(outputs).__name__}; give a target that computes [B] from the model's outputs")


def _pick(values: Tensor, label: Index) -> Tensor:
    """values [B, classes] at one class for each sample."""
    index = torch.as_tensor(label, device=values.device).expand(len(values))
    return values.gather(1, index[:, None])[:, 0]


def _at(values: Tensor, position: Index, label: Index | None) -> Tensor:
    row = _row(values, position)
    return row.amax(dim=-1) if label is None else _pick(row, label)


def _row(values: Tensor, position: Index) -> Tensor:
    """values [B, positions, classes] at one position for each sample."""
    index = torch.as_tensor(position, device=values.device).expand(len(values))
    return values[torch.arange(len(values), device=values.device), index]


def _similarity(outputs: Any) -> Tensor:
    if getattr(outputs, "logits_per_image", None) is not None:
        return outputs.logits_per_image.diagonal()
    if isinstance(outputs, dict):
        image, text, scale = (outputs[name] for name in ("image_features", "text_features", "logit_scale"))
    else:
        image, text, scale = outputs[:3]
    if len(image) != len(text):
        raise ValueError(
            f"{len(image)} images and {len(text)} texts are no pairs; repeat one to the length of the other"
        )
    return scale * (image * text).sum(dim=-1)


def _shown(index: Index) -> str:
    return str(index.tolist() if isinstance(index, Tensor) else index)
