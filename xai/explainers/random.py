"""Random scores: the baseline of every table."""

import torch
from jaxtyping import Float
from torch import Tensor

from xai.recording.recording import Recording, Score


def random(recording: Recording, target: Score, seed: int = 0) -> Float[Tensor, "B T"]:
    """Draws uniform scores, the same for the same seed on every device.

    Args:
        recording: one forward pass.
        target: ignored.
        seed: of the draw.

    Returns:
        Scores [B, T], in [0, 1).

    Source:
        None: the baseline of a table.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(recording.mask.shape, generator=generator).to(recording.mask.device)
