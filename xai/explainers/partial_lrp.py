"""Partial LRP: the relevance of the last attention (Voita et al. 2019)."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.last_map import last_map
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording, Score


def partial_lrp(recording: Recording, target: Score) -> Float[Tensor, "B T T"]:
    """Returns E_h R^A of the last events, by the rules of TransAtt.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].

    Returns:
        Map [B, T, T]; negative entries speak against the target.

    Source:
        Voita et al. 2019; TransAtt §4.
    """
    by_event = relevances(recording, target, TRANSATT).A
    return last_map(recording, lambda event: by_event[event].mean(dim=1))
