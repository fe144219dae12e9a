"""Token Activation Map (Li et al. 2025): what states at the image say of a word, less what earlier words explain of it."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import rownorm, scores_traced_back
from xai.explainers.lens import head_of, layers_of, pictured, pictures
from xai.recording.axis import index_of
from xai.recording.grids import grid_of
from xai.recording.head import Head
from xai.recording.recording import Recording, Score

WINDOW = 9  # cells of the filter's window, 3 x 3


def tam(recording: Recording, target: Score, clean: bool = True, denoise: bool = True) -> Float[Tensor, "B T"]:
    """Reads the last states by the output embedding of the written word: a = (W[word] · F)⁺, no gradient of the model.

    What a word has in common with earlier ones is taken off the image: I = Σ u_i a_i / Σ u_i over the earlier words i that
    are other ones, u_i the word's activation at word i and a_i the map of word i; the map is (a - β I)⁺ with β of least
    squares. Then each cell of the image becomes a mean of its 3 x 3 window by rank: the median, or if values differ much,
    nearer the mean. Cells at the border are repeated there (our choice). Image tokens that lie in no grid stay as they
    are. Words have u. Of a target that is a sum of logits, as that of a phrase, W is the sum.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]; of a written word its logit.
        clean: False leaves the part of earlier words in.
        denoise: False leaves the filter out.

    Returns:
        Scores [B, T], in units of the logit.

    Raises:
        ValueError: a model whose norm and head are not known, or whose image tokens are not in the stream of its words.

    Source:
        Li et al. 2025 (arXiv 2506.23270).
    """
    head = head_of(recording, "tam")
    event, states = layers_of(recording, head)[-1]
    span, seen = event.queries, pictures(recording, event.queries)
    if head.pooled or head.tokens is None or not seen.any():
        raise ValueError(
            "tam reads the states of image tokens that stand among the words which are written, and this model has none there; "
            "for one that reads its image by cross-attention take dex_ar"
        )
    words = head.tokens.to(seen.device)
    logits, weights = _logits(recording, head, states, target)
    samples = range(len(weights)) if recording.turns is None else recording.turns.of.tolist()
    scores = torch.zeros(recording.mask.shape, dtype=logits.dtype, device=logits.device)
    for row, (sample, weight) in enumerate(zip(samples, weights, strict=True)):
        activation = (logits[sample] @ weight).clamp(min=0) * recording.mask[row, span]
        if clean:
            own, known = words[sample].clamp(min=0), ~seen & (words[sample] >= 0)
            earlier = activation * (known & (weight[own] <= 0))
            maps = logits[sample][seen][:, own].clamp(min=0)  # [image tokens, tokens]
            activation[seen] = less(activation[seen], maps @ rownorm(earlier[None])[0])
        scores[row, span] = activation
    for name, _ in pictured(recording, span) if denoise else ():
        grid, where = grid_of(recording, name), index_of(recording.modalities[name]).to(scores.device)
        if grid is not None:
            cells = where[~recording.special[0, where]]
            scores[:, cells] = rank_filtered(scores[:, cells].unflatten(1, grid)).flatten(1)
    return scores_traced_back(recording, scores)


def _logits(
    recording: Recording, head: Head, states: Float[Tensor, "_ q D"], target: Score
) -> tuple[Float[Tensor, "_ q V"], Float[Tensor, "B V"]]:
    """Returns the logits of all tokens without the head's bias, W F, and how much each counts for the target."""
    with torch.inference_mode(False), torch.enable_grad():
        read = head.read(states.detach()).detach().requires_grad_()
        score = replace(recording.fresh(), output=head.said(read, recording.output)).score(target)
        (slope,) = recording.backward(score, [read]) if score.requires_grad else (None,)
    if slope is None:
        raise ValueError("the target reads no logits of the model; give one of them")
    slope = slope if recording.turns is None else recording.turns.rows(slope.flatten(0, 1))
    bias = head.project(torch.zeros_like(states[:1, :1])).detach()
    return read.detach() - bias, slope.sum(dim=1)


def less(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Returns (a - β b)⁺, where β b is as near to a as it can be; a if b is 0."""
    square = (b * b).sum()
    return (a - (a * b).sum() / square.where(square > 0, 1) * b).clamp(min=0)


def rank_filtered(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B rows columns"]:
    """Returns of each cell the mean of the 3 x 3 cells around it, weighed by exp(-(r - 4)² / 2 σ²).

    r is the rank of a value, from 0, and σ the window's standard deviation divided by its mean; of equal values the weights
    are those of the median alone, as in the limit.
    """
    windows = F.unfold(F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), 3).sort(dim=1).values  # [B, 9, cells]
    sigma = windows.std(dim=1, unbiased=False) / windows.mean(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
    far = (torch.arange(WINDOW, device=maps.device, dtype=maps.dtype) - WINDOW // 2).square()[:, None]
    exponents = -far / (2 * sigma.square().clamp(min=torch.finfo(maps.dtype).tiny))[:, None]
    return (exponents.softmax(dim=1) * windows).sum(dim=1).view_as(maps)
