"""SmoothGrad (Smilkov et al. 2017): the gradient averaged over noisy embeddings."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.explainers.states import embeddings, gradients_at, times
from xai.recording.recording import Recording, Score
from xai.targets import decided


def smoothgrad(
    recording: Recording, target: Score, samples: int = 16, noise: float = 0.1, seed: int = 0
) -> Float[Tensor, "B T"]:
    """Sums E[∇(x + ε)] ⊙ x over the width, one pass of the model for each sample of the noise.

    Every sample of a batch gets the same ε, so that it is explained as it would be alone. A target that chooses its class
    keeps the one it has on the input.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        samples: of the noise.
        noise: standard deviation of the normal ε, as a share of the range of the sample's real embeddings, for each modality.
        seed: of the noise.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Raises:
        ValueError: fewer than one sample.

    Source:
        Smilkov et al. 2017.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; give at least 1")
    target, x = decided(target, recording.output), embeddings(recording)
    deviation = {
        name: noise * _range(tokens, recording.mask[:, recording.modalities[name]]) for name, tokens in x.items()
    }
    seeds = torch.randint(2**62, (samples, len(x)), generator=torch.Generator().manual_seed(seed)).tolist()
    total = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)
    noisy = (
        {name: x[name] + deviation[name] * _normal(x[name], s) for name, s in zip(x, row, strict=True)} for row in seeds
    )
    for slopes in gradients_at(recording, target, noisy):
        total = total + times(recording, slopes, x) / samples
    return total


def _range(tokens: Float[Tensor, "B tokens D"], mask: Bool[Tensor, "B tokens"]) -> Float[Tensor, "B 1 1"]:
    """Returns the largest minus the smallest entry of the real tokens; 0 if there are none."""
    padding = ~mask[..., None]
    high, low = (tokens.masked_fill(padding, sign * -torch.inf) for sign in (1, -1))
    return (high.amax(dim=(1, 2), keepdim=True) - low.amin(dim=(1, 2), keepdim=True)).clamp(min=0)


def _normal(like: Float[Tensor, "B tokens D"], seed: int) -> Float[Tensor, "1 tokens D"]:
    """Draws noise; that of a token does not depend on how many follow it, which padding changes."""
    uniform = torch.rand(like.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(min=1e-300))[None].to(like.device, like.dtype)
