"""GenAtt with LRP: the relevance of attention in the place of attention."""

from typing import Any

from torch import Tensor

from xai.explainers.genatt import genatt
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.tape import Score, Tape


def genatt_lrp(tape: Tape, target: Score, **options: Any) -> Tensor:
    """GenAtt of Ā = E_h (∇A ⊙ R^A)⁺ (TransAtt eq. 13), with GenAtt's options. [B, T, T]"""
    return genatt(tape, target, attention=relevances(tape, target, TRANSATT).A, **options)
