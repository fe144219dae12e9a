"""Measures pairs of tokens: words that point at patches, and an order of tokens by what they have together."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.metrics.ranking import expected_hits


def pointing(
    pairs: Float[Tensor, "*methods B W P"], truth: Float[Tensor, "B W P"], patches: Bool[Tensor, "B P"]
) -> Float[Tensor, "*methods B W"]:
    """Returns how much of each word's strongest patch lies on what the word names: the pointing game, word by word.

    Args:
        pairs: [..., B, words, patches].
        truth: [B, words, patches], the share of each patch that is of the objects a word names, 0 to 1; all 0 for a word that
            names none.
        patches: [B, patches], False at special tokens.

    Returns:
        [..., B, words], from 0 to 1: how likely a random point of the patch is a hit. Equal patches share; NaN for a word that
        names nothing, and where a pair is not finite.

    Source:
        Zhang et al. 2018 for the pointing game; of pairs: Baniecki et al. 2025.

    Example:
        >>> import torch
        >>> from xai.metrics.pairs import pointing
        >>> truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # the first word names what the first patch shows
        >>> pointing(torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]), truth, torch.tensor([[True, True]])).tolist()
        [[1.0, nan]]
    """
    valid = patches[:, None].expand(truth.shape)
    truth = truth * valid
    known = (truth.sum(dim=-1) > 0) & (pairs.isfinite() | ~valid).all(dim=-1)
    one = torch.ones(pairs.shape[:-1], dtype=truth.dtype, device=truth.device)
    return expected_hits(pairs.nan_to_num(), truth, one, valid).where(known, torch.nan)


def pair_order(pairs: Float[Tensor, "*methods B T T"], tokens: Bool[Tensor, "B T"]) -> Float[Tensor, "*methods B T"]:
    """Orders tokens so that those which are strong together come together, as scores for `perturb`.

    First comes a token of the best pair; then always the one that adds most to those before it: what it has alone, and its
    pairs with them. Removed in this order tokens give the second-order deletion, backwards the second-order insertion.

    Args:
        pairs: [..., B, T, T], the same above and below the diagonal; on it what each token has alone.
        tokens: [B, T], True at those that can be removed.

    Returns:
        [..., B, T], the larger the earlier, 0 at other tokens; NaN throughout for a sample with a pair that is not finite.

    Source:
        Baniecki et al. 2025 for the measure; the greedy order is ours.

    Example:
        >>> import torch
        >>> from xai.metrics.pairs import pair_order
        >>> pairs = torch.tensor([[[0.0, 0.0, 3.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]])  # 0 and 2 are strong together
        >>> pair_order(pairs, torch.ones(1, 3, dtype=torch.bool)).tolist()
        [[3.0, 1.0, 2.0]]
    """
    shape, count = pairs.shape[:-1], pairs.shape[-1]
    allowed = tokens.expand(shape).reshape(-1, count)
    pairs = pairs.reshape(-1, count, count)
    both = allowed[:, :, None] & allowed[:, None]
    known = (pairs.isfinite() | ~both).all(dim=(1, 2))
    pairs = pairs.where(both, 0).nan_to_num()
    alone = pairs.diagonal(dim1=1, dim2=2).clone()
    itself = torch.eye(count, dtype=torch.bool, device=pairs.device)
    partner = (alone[:, None] + pairs).masked_fill(itself | ~both, -torch.inf).amax(dim=-1)
    gain = alone + partner.where(partner.isfinite(), 0)  # of the best pair of each token
    left, scores, rows = allowed.clone(), torch.zeros_like(alone), torch.arange(len(pairs), device=pairs.device)
    for place in range(count):
        chosen = gain.masked_fill(~left, -torch.inf).argmax(dim=1)
        there = left[rows, chosen]
        scores[rows[there], chosen[there]] = float(count - place)
        left[rows, chosen] = False
        gain = alone.clone() if place == 0 else gain
        gain = gain + pairs[rows, chosen] * there[:, None]
    return scores.masked_fill(~known[:, None], torch.nan).reshape(shape)
