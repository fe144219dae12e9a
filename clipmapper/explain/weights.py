"""The weight of each token of a caption in the whole: equal, or by how much a metric drops without it (WRA eq. 21)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer
from torch import Tensor

from clipmapper.errors import unknown
from clipmapper.metrics.captions import Unavailable, images_by_ngram, plain_words, score
from xai.results.captions import average, drop_weights

Weights = Literal["average", "bleu4", "cider", "meteor"]
METRICS: dict[str, str] = {"bleu4": "BLEU-4", "cider": "CIDEr", "meteor": "METEOR"}
TextOf = Callable[[Sequence[int]], str]
References = Sequence[Sequence[str]]  # of each image


def caption_weights(
    text_of: TextOf,
    tokens: Sequence[Sequence[int]],
    references: References | None,
    weights: str,
    images: Sequence[int] | None = None,
) -> list[Tensor]:
    """Returns of each caption the weights of its tokens, sum 1.

    Args:
        text_of: from a caption's tokens to its text.
        tokens: of each caption.
        references: the right captions of each image; None only for "average".
        weights: "average" or a metric's name.
        images: the image of each caption; None where caption i is of image i.

    Raises:
        ValueError: the metric cannot be computed.
    """
    if weights not in get_args(Weights):
        raise unknown("weights of a caption's words", weights, get_args(Weights))
    if weights == "average":
        return [average(len(caption)) for caption in tokens]
    if references is None:
        raise ValueError(f"weights by {METRICS[weights]} need references: the right captions of each image")
    return [drop_weights(drops) for drops in metric_drops(text_of, tokens, references, [weights], images)[weights]]


def metric_drops(
    text_of: TextOf,
    tokens: Sequence[Sequence[int]],
    references: References,
    names: Iterable[str] = METRICS,
    images: Sequence[int] | None = None,
) -> dict[str, list[Tensor]]:
    """Returns m(C) − m(C without token t) of each metric for each caption, [its tokens]; each scorer runs once for all.

    Words are the plain ones. CIDEr weighs n-grams by the references of all images. Arguments are those of `caption_weights`.

    Raises:
        ValueError: a metric cannot run, or there is not one image for each caption.
    """
    images = range(len(references)) if images is None else images
    if len(tokens) != len(images):
        raise ValueError(f"{len(tokens)} captions and {len(images)} lists of references; give one for each caption")
    texts = [text_of(part) for caption in tokens for part in (caption, *without_each(caption))]
    counts = [len(caption) + 1 for caption in tokens]
    of = np.repeat(images, counts).tolist()
    drops = {}
    for name in names:
        values = metric(METRICS[name], texts, of, references)
        drops[name] = [part[0] - part[1:] for part in values.split(counts)]
    return drops


def without_each(caption: Sequence[int]) -> list[list[int]]:
    """The caption without its first token, without its second, and so on."""
    return [[*caption[:t], *caption[t + 1 :]] for t in range(len(caption))]


def metric(name: str, texts: Sequence[str], of: Sequence[int], references: References) -> Tensor:
    """One metric of texts, [N]; text i is of image `of[i]`. Raises ValueError if it cannot run here."""
    if name == "CIDEr":
        return Cider(references)(texts, of)
    scores = score(texts, [references[image] for image in of], [name], ptb=False)
    if name not in scores.each:
        raise ValueError(f"{name} {scores.corpus[name]}; choose other weights")
    return torch.tensor(scores.each[name], dtype=torch.float64)


class Cider:
    """CIDEr of any number of captions of some images, whose references alone say how rare an n-gram is.

    Raises ValueError for images among which nothing is rare: a single one, or some whose references are the same.
    """

    def __init__(self, references: References) -> None:
        self.references = [[plain_words(text) for text in texts] for texts in references]
        try:
            self.frequency = images_by_ngram(self.references)
        except Unavailable as reason:
            raise ValueError(str(reason)) from reason

    def __call__(self, captions: Sequence[str], of: Sequence[int]) -> Tensor:
        """[N]; caption i is of image `of[i]`."""
        scorer = _AmongImages(self.frequency, len(self.references))
        for text, image in zip(captions, of, strict=True):
            scorer += (plain_words(text), self.references[image])
        return torch.tensor(np.array(scorer.compute_cider()), dtype=torch.float64)


class _AmongImages(CiderScorer):
    """Takes the counts of n-grams, and of images, from outside: its captions are not one an image."""

    def __init__(self, frequency: Mapping[tuple[str, ...], float], images: int) -> None:
        self.images = images
        super().__init__()
        self.document_frequency = frequency

    @property
    def ref_len(self) -> float:
        return float(np.log(self.images))

    @ref_len.setter
    def ref_len(self, value: object) -> None:
        """The number of captions does not count."""
