"""Random scores: the floor under every table."""

import torch
from torch import Tensor

from xai.tape import Score, Tape


def random(tape: Tape, target: Score, seed: int = 0) -> Tensor:
    """Uniform scores [B, T], the same for the same seed on every device. Ignores the target."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tape.real.shape, generator=generator).to(tape.real.device)
