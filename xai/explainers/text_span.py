"""TextSpan (Gandelsman et al. 2024): the texts whose directions say most of what a head writes."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Span(NamedTuple):
    """Texts in the order in which they were found.

    Attributes:
        texts: their numbers.
        explained: the share of the variance of the outputs that they explain together with those before.

    Example:
        >>> from xai.explainers.text_span import Span
        >>> Span([3, 1], [0.5, 0.75]).texts[0]
        3
    """

    texts: list[int]
    explained: list[float]


def text_span(outputs: Float[Tensor, "N E"], texts: Float[Tensor, "M E"], count: int) -> Span:
    """Finds texts along which a head's outputs vary most, each after what the ones before explain is taken off.

    Texts are first projected on the space that the outputs, less their mean, span; then, again and again, the one along which
    the outputs vary most is taken, and its direction is taken off the outputs and the texts.

    Args:
        outputs: what a head has added to the embeddings of N images, such as `contributions(recording).heads[:, layer,
            head].sum(dim=1)`.
        texts: embeddings of M texts.
        count: how many to find; fewer are found where nothing is left that varies along a text.

    Returns:
        The numbers of the texts, and the share of the variance explained.

    Raises:
        ValueError: a count below 1 or above the number of texts, or outputs that do not vary.

    Source:
        Gandelsman et al. 2024 (ICLR), algorithm 1.

    Example:
        >>> import torch
        >>> from xai.explainers.text_span import text_span
        >>> outputs = torch.tensor([[1.0, 2.0, 0.0], [1.0, -2.0, 0.0], [-1.0, 0.0, 0.0]])
        >>> text_span(outputs, torch.eye(3), 2).texts
        [1, 0]
    """
    if not 1 <= count <= len(texts):
        raise ValueError(f"count is {count} of {len(texts)} texts; give 1 to {len(texts)}")
    left = (outputs - outputs.mean(dim=0)).double()
    total = left.square().sum()
    _, sizes, basis = torch.linalg.svd(left, full_matrices=False)
    basis = basis[sizes > 1e-9 * sizes.max()]
    if not len(basis) or total == 0:
        raise ValueError("the outputs are all the same; give those of several images")
    known = texts.double() @ basis.mT @ basis
    smallest = 1e-9 * known.norm(dim=1).max()
    found: list[int] = []
    explained: list[float] = []
    for _ in range(count):
        along = (left @ known.mT).square().sum(dim=0)
        along[found] = -1
        best = int(along.argmax())
        axis = known[best]
        if axis.norm() <= smallest or along[best] <= 1e-18 * total:
            break
        axis = axis / axis.norm()
        left = left - (left @ axis)[:, None] * axis
        known = known - (known @ axis)[:, None] * axis
        found.append(best)
        explained.append(float(1 - left.square().sum() / total))
    return Span(found, explained)
