"""What an explanation is: relevance by modality."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Relevance:
    """How much each input token matters for the target: for each modality scores [B, tokens], 0 at padding."""

    scores: dict[str, Tensor]
    real: dict[str, Tensor]  # [B, tokens], False at padding
    method: str
    options: dict[str, Any]
    target: str | None  # None: the method ignores the target
