"""Propagates relevance to the input by the rules of TransAtt, AttnLRP and CP-LRP."""

from jaxtyping import Float
from torch import Tensor

from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording, Score


def full_lrp(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Propagates relevance to the tokens as they enter their first attention, by the rules of TransAtt.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Binder et al. 2016; TransAtt §4.
    """
    return relevances(recording, target, TRANSATT).tokens


def attn_lrp(recording: Recording, target: Score, gamma: float = 0.0) -> Float[Tensor, "B T"]:
    """Propagates relevance to the tokens as `full_lrp`, by the rules of AttnLRP.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].
        gamma: of the gamma rule on linear layers; 0 is the epsilon rule.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Achtibat et al. 2024.
    """
    return relevances(recording, target, with_gamma(ATTN_LRP, gamma)).tokens


def cp_lrp(recording: Recording, target: Score, gamma: float = 0.0) -> Float[Tensor, "B T"]:
    """Propagates relevance to the tokens as `full_lrp`, with attention and the spread of norms as constants.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].
        gamma: of the gamma rule on linear layers; 0 is the epsilon rule.

    Returns:
        Scores [B, T]; negative ones speak against the target.

    Source:
        Ali et al. 2022.
    """
    return relevances(recording, target, with_gamma(CP_LRP, gamma)).tokens


def pixel_lrp(recording: Recording, target: Score) -> Float[Tensor, "B rows columns"]:
    """Propagates relevance to the pixels, the sum over channels (z^B rule); for vision transformers.

    Args:
        recording: one forward pass, recorded with `lrp="pixels"`.
        target: from the model's outputs to one number a sample, [B].

    Returns:
        Scores [B, rows, columns]; negative ones speak against the target.

    Raises:
        ValueError: a recording that was not recorded from its pixels.

    Source:
        Binder et al. 2016; TransAtt §4.
    """
    pixels = relevances(recording, target, TRANSATT).pixels
    if pixels is None:
        raise ValueError("the recording was not recorded from the pixels: record with lrp='pixels'")
    return pixels
