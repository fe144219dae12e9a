"""Raw attention: the last attention of each pair of streams, mean over heads."""

from torch import Tensor

from xai.explainers.last_map import last_map
from xai.relevance import mean_attention
from xai.tape import Score, Tape


def raw_attention(tape: Tape, target: Score) -> Tensor:
    """E_h A of the last events, [B, T, T]. Ignores the target."""
    return last_map(tape, lambda event: mean_attention(tape, event))
