"""Targets, which say what is explained: callables from a model's outputs to one number a sample, [B]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xai.recording.recording import Score

Index = int | Int[Tensor, "*B"]  # one for all samples, or [B]


@dataclass(frozen=True, eq=False)
class Target:
    """A named score of a model's outputs.

    Attributes:
        name: by which results and pictures call it.
        score: from the model's outputs to one number a sample, [B].
        row: the modality and position that the score is read from; None for what the model's own head reads.
        choose: from the outputs to the target of the class that they decide on; None where the class is fixed.
        probability: from the outputs to the probability of what is explained, [B]; None where there is none. It is what methods
            that take tokens away look at.

    Example:
        >>> import torch
        >>> from xai import Target
        >>> margin = Target("margin", lambda outputs: outputs[:, 0] - outputs[:, 1])
        >>> margin(torch.tensor([[3.0, 1.0]])).tolist()
        [2.0]
    """

    name: str
    score: Callable[[Any], Float[Tensor, " B"]]
    row: tuple[str, Index] | None = None
    choose: "Callable[[Any], Target] | None" = None
    probability: Callable[[Any], Float[Tensor, " B"]] | None = None

    def __call__(self, outputs: Any) -> Float[Tensor, " B"]:
        return self.score(outputs)


def decided(target: Score, outputs: Any) -> Score:
    """Returns `target` with its class as these outputs have it, for methods that run the model again with other inputs."""
    choose = getattr(target, "choose", None)
    return target if choose is None else choose(outputs)


def predicted() -> Target:
    """Explains the largest logit of each sample.

    Returns:
        The target; its class is that of the outputs, [B, classes].

    Example:
        >>> import torch
        >>> from xai import predicted
        >>> predicted()(torch.tensor([[0.0, 2.0], [3.0, 1.0]])).tolist()
        [2.0, 3.0]
    """
    return Target(
        "predicted",
        lambda outputs: logits(outputs).amax(dim=-1),
        choose=lambda outputs: given(logits(outputs).argmax(dim=-1)),
    )


def given(label: Index) -> Target:
    """Explains the logit of a class.

    Args:
        label: the number of the class, or one for each sample [B].

    Returns:
        The target, of outputs [B, classes].

    Example:
        >>> import torch
        >>> from xai import given
        >>> given(torch.tensor([1, 0]))(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [2.0, 3.0]
    """
    return Target(
        f"given {_shown(label)}",
        lambda outputs: _pick(logits(outputs), label),
        probability=lambda outputs: _pick(logits(outputs).softmax(dim=-1), label),
    )


def difference(label: Index, other: Index) -> Target:
    """Explains why one class rather than another: how far the logit of the one is above that of the other.

    Args:
        label: the number of the class, or one for each sample [B].
        other: the class to compare it with, likewise.

    Returns:
        The target, of outputs [B, classes].

    Example:
        >>> import torch
        >>> from xai import difference
        >>> difference(1, 0)(torch.tensor([[1.0, 4.0]])).tolist()
        [3.0]
    """
    return Target(
        f"{_shown(label)} rather than {_shown(other)}",
        lambda outputs: _pick(logits(outputs), label) - _pick(logits(outputs), other),
    )


def token(position: Index, label: Index | None = None) -> Target:
    """Explains a word that a caption model predicts at a position of its text.

    Args:
        position: of the token whose row predicts the word, from 0, or one for each sample [B].
        label: the number of the word in the vocabulary, or one for each sample [B]; None for the likeliest.

    Returns:
        The target, of outputs [B, positions, vocabulary]. It is read from the row of that token.

    Source:
        WRA eq. 20: each word is a classification at its step.

    Example:
        >>> import torch
        >>> from xai import token
        >>> token(1)(torch.tensor([[[0.0, 1.0], [5.0, 2.0]]])).tolist()
        [5.0]
    """
    return Target(
        f"token at {_shown(position)}",
        lambda outputs: _at(logits(outputs), position, label),
        ("text", position),
        None if label is not None else lambda outputs: token(position, _row(logits(outputs), position).argmax(dim=-1)),
        lambda outputs: _at(logits(outputs).softmax(dim=-1), position, label),
    )


def detection(query: Index, label: Index | None = None) -> Target:
    """Explains the class of one object query of a detector.

    Args:
        query: the number of the query, or one for each sample [B].
        label: the number of the class, or one for each sample [B]; None for the likeliest but the last, "no object".

    Returns:
        The target, of outputs with `logits` [B, queries, classes + 1]. It is read from the row of that query.

    Source:
        GenAtt app. C.

    Example:
        >>> import torch
        >>> from xai import detection
        >>> detection(0)(torch.tensor([[[1.0, 3.0, 9.0]]])).tolist()
        [3.0]
    """

    def objects(outputs: Any) -> Tensor:
        return logits(outputs)[..., :-1]

    return Target(
        f"query {_shown(query)}",
        lambda outputs: _at(objects(outputs) if label is None else logits(outputs), query, label),
        ("queries", query),
        None if label is not None else lambda outputs: detection(query, _row(objects(outputs), query).argmax(dim=-1)),
        None if label is None else lambda outputs: _at(logits(outputs).softmax(dim=-1), query, label),
    )


def similarity() -> Target:
    """Explains the logit of each image with the text of the same place in the batch.

    Returns:
        The target, of CLIP's outputs: `logits_per_image`, or the features [B, width] of images and texts with the scale of
        their product. The score is CLIP's, temperature included. Raises ValueError, when it is computed, for images and
        texts that are not equally many.

    Example:
        >>> import torch
        >>> from xai import similarity
        >>> similarity()((torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor(10.0))).tolist()
        [5.0]
    """
    return Target("similarity", _similarity)


def features(outputs: Any) -> tuple[Float[Tensor, "images width"], Float[Tensor, "texts width"]]:
    """Finds the features of images and of texts among a dual encoder's outputs; raises TypeError if there are none."""
    for names in (("image_embeds", "text_embeds"), ("image_features", "text_features")):
        found = [outputs.get(n) if isinstance(outputs, dict) else getattr(outputs, n, None) for n in names]
        if isinstance(found[0], Tensor) and isinstance(found[1], Tensor):
            return found[0], found[1]
    if type(outputs) is tuple and len(outputs) >= 3 and all(isinstance(part, Tensor) for part in outputs[:2]):
        return outputs[0], outputs[1]
    raise TypeError(
        f"no features of images and texts in {type(outputs).__name__}; dual encoders such as CLIP have them"
    )


def logits(outputs: Any) -> Tensor:
    """Finds the logits among a model's outputs, [B, ..., classes]; raises TypeError if there are none."""
    if isinstance(outputs, Tensor):
        return outputs
    for name in ("logits", "question_answering_score"):
        values = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
        if values is not None:
            return values
    raise TypeError(f"no logits in {type(outputs).__name__}; give a target that computes [B] from the model's outputs")


def _pick(values: Float[Tensor, "B classes"], label: Index) -> Float[Tensor, " B"]:
    """Returns the value of one class for each sample. Raises ValueError for a class that there is not."""
    index = torch.as_tensor(label, device=values.device)
    if (index.ndim and len(index) not in (1, len(values))) or bool(((index < 0) | (index >= values.shape[1])).any()):
        raise ValueError(
            f"class {_shown(label)} of {values.shape[1]} classes and {len(values)} samples: give one of 0 to "
            f"{values.shape[1] - 1}, or as many as there are samples"
        )
    index = index.expand(len(values))
    return values.gather(1, index[:, None])[:, 0]


def _at(values: Float[Tensor, "B positions classes"], position: Index, label: Index | None) -> Float[Tensor, " B"]:
    row = _row(values, position)
    return row.amax(dim=-1) if label is None else _pick(row, label)


def _row(values: Float[Tensor, "B positions classes"], position: Index) -> Float[Tensor, "B classes"]:
    """Returns the values of one position for each sample."""
    index = torch.as_tensor(position, device=values.device).expand(len(values))
    return values[torch.arange(len(values), device=values.device), index]


def _similarity(outputs: Any) -> Float[Tensor, " B"]:
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
