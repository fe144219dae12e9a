"""exCLIP (Möller et al. 2025): the second derivative of a similarity by a word and a patch, along lines from a reference."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from xai.explainers.integrated_gradients import Baseline, baseline_of, gauss_legendre
from xai.explainers.states import embeddings
from xai.games.towers import line, towers_of
from xai.recording.recording import Recording, Score
from xai.recording.rerun import Rerun
from xai.targets import features

AT_ONCE = 64  # features of one batched backward pass
MATH = SDPBackend.MATH  # attention in plain products, whose gradients are batched; kernels would run them one by one


def exclip(recording: Recording, target: Score, steps: int = 16, baseline: Baseline = "mean") -> Float[Tensor, "B T T"]:
    """Shares out what a text and an image have together among pairs of their tokens.

    With g the features, normalised as the model returns them, J their derivative by the embeddings, averaged along the line
    from a reference, and r and s the references of image x and text y: A_ij = scale Σ_D (y_j - s_j) J_jᵀ J_i (x_i - r_i).
    The paper takes features before normalisation, and references of a black picture and of a text without words; ours are made
    of the embeddings, as any model has them: special tokens (class, start, end) and padding keep their own, and content takes
    the baseline.

    Args:
        recording: one forward pass of two towers that never read each other, as CLIP.
        target: `similarity()`.
        steps: nodes of each line by the rule of Gauss and Legendre. Each costs one pass, and a backward pass for each feature.
        baseline: of content, as of `integrated_gradients`.

    Returns:
        Map [B, T, T], A at (text, image) and (image, text), else 0. The sum of A, each pair once, is
        f(x, y) - f(r, y) - f(x, s) + f(r, s).

    Raises:
        ValueError: another target or model, fewer than one step, or features that similarity is no product of.

    Source:
        Möller et al. 2025.
    """
    towers = towers_of(recording, target)
    if towers is None:
        raise ValueError(
            "exclip is for similarity() of two towers that never read each other, as CLIP's; elsewhere 'fixlip' has pairs"
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; give at least 1")
    x, start = embeddings(recording), references(recording, baseline)
    moved: tuple[list[Tensor], list[Tensor]] = ([], [])
    products, similarities = [], []
    for at, weight in zip(*(t.tolist() for t in gauss_legendre(steps)), strict=True):
        again = _again(recording, {name: start[name] + at * (x[name] - start[name]) for name in x})
        with torch.no_grad():
            image, text = features(again.output)
            products.append((image * text).sum(dim=-1).detach())
            similarities.append(target(again.output).detach())
        for side, names in enumerate(towers):
            way = {name: x[name] - start[name] for name in names}
            moved[side].append(weight * _along(recording, again, side, way))
    scale = line(torch.cat(products), torch.cat(similarities)).scale.to(recording.readout.dtype)
    of_image, of_text = (torch.stack(parts).sum(dim=0) for parts in moved)
    pairs = scale * of_text.mT @ of_image
    return pairs + pairs.mT


def references(recording: Recording, baseline: Baseline = "mean") -> dict[str, Float[Tensor, "B _ _"]]:
    """Returns the embeddings of references, by modality: special tokens and padding as they are, content by the baseline."""
    x = embeddings(recording)
    start = baseline_of(recording, x, baseline)
    content = recording.mask & ~recording.special
    return {name: start[name].where(content[:, where, None], x[name]) for name, where in recording.inputs.items()}


def _along(recording: Recording, again: Rerun, side: int, way: dict[str, Tensor]) -> Float[Tensor, "B F T"]:
    """Returns how much each of one side's features moves with each token, Σ_D J (x - r)."""
    parts = []
    with sdpa_kernel(MATH):
        for slopes in again.gradients_of_each(lambda outputs: features(outputs)[side], AT_ONCE):
            moved = torch.zeros(
                len(slopes[next(iter(way))]),
                *recording.mask.shape,
                dtype=recording.readout.dtype,
                device=recording.mask.device,
            )
            for name, vectors in way.items():
                moved[..., recording.modalities[name]] = (slopes[name] * vectors).sum(dim=-1).to(moved.dtype)
            parts.append(moved)
    return torch.cat(parts).movedim(0, 1)


def _again(recording: Recording, changed: dict[str, Tensor]) -> Rerun:
    if recording.rerun is None:
        raise ValueError("this recording cannot run its model again; it was not made by `record`")
    with sdpa_kernel(MATH):
        return cast(Rerun, recording.rerun(changed))  # of rows that share a pass there are no two towers
