"""Heads over the mapper's tokens."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N A"]:
        return super().forward(x)  # called here: torch 2.6 compiles no function of torch's own that nobody else's calls


def soft_label_loss(logits: Float[Tensor, "B A"], scores: Float[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Binary cross-entropy to the soft scores, summed over answers, mean over the batch (Teney et al. 2018)."""
    return F.binary_cross_entropy_with_logits(logits.float(), scores.float(), reduction="none").sum(dim=1).mean()


class LanguageHead(nn.Module):
    """A text token to a logit for each BPE token that may come next.

    With `embedding`, CLIP's rows for those tokens, the output is tied to it: a learned projection is compared with the
    frozen rows, which are scaled to a mean square length of 1. Without, the output matrix is learned.
    """

    embedding: Tensor | None

    def __init__(self, width: int, tokens: int, embedding: Float[Tensor, "V E"] | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(tokens))
        if embedding is None:
            self.output = nn.Linear(width, tokens, bias=False)
        else:
            self.output = nn.Linear(width, embedding.shape[1])
            embedding = embedding.detach() / embedding.detach().square().sum(1).mean().sqrt()
        self.register_buffer("embedding", embedding, persistent=False)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        return self.logits(self.norm(x))

    def logits(self, normed: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Returns those of a token after the norm."""
        x = self.output(normed)
        return (x if self.embedding is None else x @ self.embedding.T) + self.bias


def next_token_loss(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy to the tokens that come next, mean over them; `smoothing` is the share spread over all tokens."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
