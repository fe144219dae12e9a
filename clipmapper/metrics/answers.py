"""Soft accuracy of the likeliest answer, overall and by answer type."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from clipmapper.data.vqa import ANSWER_TYPES


def soft_accuracy(logits: Float[Tensor, "B A"], scores: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
    """The soft score of each question's arg-max answer, 0..1."""
    return scores.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)


class VQAAccuracy(Metric):
    """Mean soft accuracy in percent: `overall` and of each answer type that occurs."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        kinds = len(ANSWER_TYPES) + 1  # the last one is "unknown", which counts only overall
        self.add_state("total", torch.zeros(kinds, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(kinds, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, logits: Float[Tensor, "B A"], scores: Float[Tensor, "B A"], answer_type: Int[Tensor, " B"]
    ) -> None:
        accuracy = soft_accuracy(logits, scores).to(self.total.dtype)
        self.total.index_add_(0, answer_type, accuracy)
        self.count.index_add_(0, answer_type, torch.ones_like(accuracy))

    def compute(self) -> dict[str, Tensor]:
        means = {"overall": 100 * self.total.sum() / self.count.sum()}
        for kind, name in enumerate(ANSWER_TYPES):
            if self.count[kind] > 0:
                means[name] = 100 * self.total[kind] / self.count[kind]
        return means
