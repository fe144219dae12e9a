"""What is read off the mapper's tokens."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class AnswerHead(nn.Sequential):
    """One token to a logit for each answer.

    The last bias starts at the logit of 1 / answers: before it has learned, the head finds every answer unlikely.
    """

    def __init__(self, width: int, answers: int, dropout: float) -> None:
        output = nn.Linear(2 * width, answers)
        nn.init.constant_(output.bias, -math.log(max(answers - 1, 1)))
        layers = (nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), output)
        super().__init__(*layers)


def soft_label_loss(logits: Float[Tensor, "B A"], scores: Float[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Binary cross-entropy to the soft scores, summed over answers, mean over the batch (Teney et al. 2018)."""
    return F.binary_cross_entropy_with_logits(logits.float(), scores.float(), reduction="none").sum(dim=1).mean()
