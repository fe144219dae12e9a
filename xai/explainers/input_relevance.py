"""Propagates relevance to the input by the rules of TransAtt, AttnLRP and CP-LRP."""

from jaxtyping import Float
from torch import Tensor

from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording, Score


def full_lrp(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Returns the relevance of the tokens as they enter their first attention, by the rules of TransAtt; signed."""
    return relevances(recording, target, TRANSATT).tokens


def attn_lrp(recording: Recording, target: Score, gamma: float = 0.0) -> Float[Tensor, "B T"]:
    """Works as `full_lrp` by AttnLRP (Achtibat et al. 2024), with the gamma rule on linear layers; 0 is the epsilon rule."""
    return relevances(recording, target, with_gamma(ATTN_LRP, gamma)).tokens


def cp_lrp(recording: Recording, target: Score, gamma: float = 0.0) -> Float[Tensor, "B T"]:
    """Works as `full_lrp` by CP-LRP (Ali et al. 2022): attention and the spread of norms are constants; `gamma` as above."""
    return relevances(recording, target, with_gamma(CP_LRP, gamma)).tokens


def pixel_lrp(recording: Recording, target: Score) -> Float[Tensor, "B rows columns"]:
    """Propagates to the pixels, the sum over channels (z^B rule); for vision transformers.

    Raises ValueError for a recording that was not recorded from its pixels.
    """
    pixels = relevances(recording, target, TRANSATT).pixels
    if pixels is None:
        raise ValueError("the recording was not recorded from the pixels: record with lrp='pixels'")
    return pixels
