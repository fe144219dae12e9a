"""Partial LRP: the relevance of the last attention (Voita et al. 2019)."""

from torch import Tensor

from xai.explainers.last_map import last_map
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording, Score


def partial_lrp(recording: Recording, target: Score) -> Tensor:
    """E_h R^A of the last events, [B, T, T]; signed. By the rules of TransAtt."""
    found = relevances(recording, target, TRANSATT)
    return last_map(recording, lambda event: found.A[event].mean(dim=1))
