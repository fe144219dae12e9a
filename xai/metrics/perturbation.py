"""Runs a model on inputs with tokens removed: curves of many explainers at once, each distinct input run once, in large batches.

Axes of its results: [methods, directions, samples, steps], directions in the order of `protocols.DIRECTIONS`.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xai.games.inputs import Perturbed, distinct
from xai.metrics.protocols import Protocol, kept_counts
from xai.metrics.ranking import removal_rank, token_noise

Predict = Callable[[Perturbed], Mapping[str, Tensor]]  # figures by name, such as accuracy and probability, each [N]


@torch.no_grad()
def perturb(
    relevance: Float[Tensor, "*any"],
    removable: Bool[Tensor, "B T"],
    samples: Int[Tensor, " _"],
    predict: Predict,
    protocol: Protocol,
    mask: Bool[Tensor, "B T"] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    steps: Sequence[int] | None = None,
) -> dict[str, Float[Tensor, "methods directions B steps"]]:
    """Measures how the figures of a model fall while the tokens of one modality are removed.

    Args:
        relevance: [methods, B, T]. One that is not finite gives that method NaN for that sample, and no other.
        removable: [B, T], False at special tokens and padding.
        samples: [B], the samples' ids: with `seed` they decide ties, so a sample's curves do not depend on its batch.
        predict: runs the model. It gets inputs of one length and every distinct input once, whichever methods, directions
            and steps ask for it.
        protocol: which shares of the tokens are removed.
        mask: [B, T], False at padding; None without padding.
        batch_size: inputs that `predict` gets at once, at most.
        seed: of the order of equal relevance.
        steps: numbers of the protocol's shares that are measured, for who shows them one by one; None for all.

    Returns:
        By figure of `predict` a curve [methods, directions, B, steps]; directions as in `protocols.DIRECTIONS`.

    Raises:
        ValueError: shapes that do not fit, nothing to remove from, or figures that are not one number an input.

    Source:
        WRA §4.3.2, GenAtt §5, TransAtt §4.

    Example:
        >>> import torch
        >>> from xai.metrics.perturbation import perturb
        >>> from xai.metrics.protocols import area, named
        >>> def predict(inputs):  # a model that is right while it sees token 2
        ...     return {"accuracy": inputs.keep[:, 2].float()}
        >>> tokens, protocol = torch.ones(1, 4, dtype=torch.bool), named("genatt", "image")
        >>> relevance = torch.tensor([[[0.1, 0.3, 0.9, 0.2]]])  # one method, one sample
        >>> curves = perturb(relevance, tokens, torch.tensor([0]), predict, protocol)
        >>> [round(a, 3) for a in area(curves["accuracy"], protocol.shares)[0, :, 0].tolist()]  # in both directions
        [0.125, 0.775]
    """
    if (
        not relevance.numel()
        or relevance.dim() != 3
        or relevance.shape[1:] != removable.shape
        or len(samples) != len(removable)
    ):
        shapes = f"{list(relevance.shape)}, {list(removable.shape)}, {list(samples.shape)}"
        raise ValueError(
            f"expected relevance [methods, B, T], removable [B, T] and samples [B], none empty, got {shapes}"
        )
    undefined = ~(relevance.isfinite() | ~removable).all(dim=-1)
    keep = keep_masks(
        relevance.nan_to_num(), removable, protocol, token_noise(samples.to(relevance.device), removable.shape[1], seed)
    )
    if steps is not None:
        keep = keep[:, :, :, list(steps)]
    keep = keep | undefined[:, None, :, None, None]  # their figures are not read: let them share a run
    if mask is not None:
        keep = keep & mask[:, None]
    rows = torch.arange(keep.shape[2], device=keep.device)[:, None].expand(keep.shape[:-1])
    batches, places = distinct(keep, rows, batch_size)
    parts = [_figures(predict, batch) for batch in batches]
    hidden = undefined[:, None, :, None]
    return {name: torch.cat([part[name] for part in parts])[places].masked_fill(hidden, torch.nan) for name in parts[0]}


def keep_masks(
    relevance: Float[Tensor, "methods B T"],
    removable: Bool[Tensor, "B T"],
    protocol: Protocol,
    noise: Int[Tensor, "B T"],
) -> Bool[Tensor, "methods directions B steps T"]:
    """Chooses the tokens that stay at each step: all that are not removable, and the rest by rank.

    The negative order is the positive one backwards, ties too.
    """
    rank = removal_rank(relevance, removable, noise)[:, :, None]  # [methods, B, 1, T]
    tokens = removable.sum(dim=-1)
    counts = kept_counts(tokens, protocol.shares)[..., None]  # [B, steps, 1]
    positive = rank >= tokens[:, None, None] - counts
    negative = rank < counts
    return torch.stack([positive, negative], dim=1) | ~removable[:, None]


def _figures(predict: Predict, part: Perturbed) -> dict[str, Tensor]:
    figures = dict(predict(part))
    for name, figure in figures.items():
        if figure.shape != part.rows.shape:
            raise ValueError(f"predict gave {name!r} of shape {list(figure.shape)} for {len(part.rows)} inputs")
    return {name: figure.to(torch.promote_types(figure.dtype, torch.float)) for name, figure in figures.items()}
