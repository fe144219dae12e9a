"""Propagates relevance to the input by the rules of TransAtt, AttnLRP and CP-LRP."""

from jaxtyping import Float
from torch import Tensor

from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.positive import TRANSATT
from xai.lrp.propagation import Rules
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
    return _of_pixels(recording, target, TRANSATT)


def attn_lrp_pixels(
    recording: Recording, target: Score, gamma: float = 0.0, gamma_pixels: float = 0.25
) -> Float[Tensor, "B rows columns"]:
    """Propagates relevance to the pixels by the rules of AttnLRP: pixels times what comes back to them, summed over channels.

    Args:
        recording: one forward pass, recorded with `lrp="pixels"`.
        target: from the model's outputs to one number a sample, [B].
        gamma: of the gamma rule on linear layers; 0 is the epsilon rule. The authors try 0 to 1 on vision transformers.
        gamma_pixels: the same of the convolution of pixels to patches. The authors try 0.1, 0.25 and 100.

    Returns:
        Scores [B, rows, columns]; negative ones speak against the target.

    Raises:
        ValueError: a recording that was not recorded from its pixels.

    Source:
        Achtibat et al. 2024, with the rules that its authors' library has for vision transformers.
    """
    return _of_pixels(recording, target, with_gamma(ATTN_LRP, gamma, gamma_pixels))


def _of_pixels(recording: Recording, target: Score, rules: Rules) -> Float[Tensor, "B rows columns"]:
    pixels = relevances(recording, target, rules).pixels
    if pixels is None:
        raise ValueError("the recording was not recorded from the pixels: record with lrp='pixels'")
    return pixels
