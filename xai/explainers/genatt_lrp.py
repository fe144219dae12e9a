"""GenAtt with LRP: the relevance of attention in the place of attention."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from xai.explainers.genatt import genatt
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording, Score


def genatt_lrp(recording: Recording, target: Score, **options: Any) -> Float[Tensor, "B T T"]:
    """Runs GenAtt with Ā = E_h (∇A ⊙ R^A)⁺.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].
        options: of `genatt`.

    Returns:
        Map [B, T, T].

    Source:
        GenAtt §3; TransAtt eq. 13.
    """
    return genatt(recording, target, attention=relevances(recording, target, TRANSATT).A, **options)
