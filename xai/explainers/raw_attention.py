"""Raw attention: the last attention of each pair of streams, mean over heads."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import mean_attention
from xai.explainers.last_map import last_map
from xai.recording.recording import Recording, Score


def raw_attention(recording: Recording, target: Score) -> Float[Tensor, "B T T"]:
    """Returns E_h A of the last events.

    Args:
        recording: one forward pass.
        target: ignored.

    Returns:
        Map [B, T, T].

    Source:
        GenAtt §4.2.
    """
    return last_map(recording, lambda event: mean_attention(recording, event))
