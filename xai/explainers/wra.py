"""Weighted relevance accumulation: rows are shares of the input tokens, and attention and skip connection are weighed."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.algebra import Change, fold, rownorm
from xai.recording.event import Event, Gradient, Gradients
from xai.recording.recording import Recording, Score


def wra(
    recording: Recording, target: Score, equal_weights: bool = False, last: int | None = None
) -> Float[Tensor, "B T T"]:
    """Accumulates shares: every row sums to 1.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        equal_weights: is the ablation α = β = ½.
        last: layers that count, from the end; None for all.

    Returns:
        Map [B, T, T].

    Source:
        WRA eq. 1 to 15.
    """
    return fold(recording, wra_change(recording.gradients(target), equal_weights), last)


def wra_change(gradients: Gradients, equal_weights: bool = False) -> Change:
    """Returns the change of R[s] ← α R[s] + β Ā R[k], as what is added to R[s]: β (Ā R[k] - R[s]), since α + β = 1.

    A row of Ā without positive evidence leaves its token as it is (the paper does not say).
    """

    def change(R: Tensor, event: Event) -> Tensor:
        A = gradients[event].evidence
        beta = 0.5 if equal_weights else attention_share(event, gradients[event])[:, None, None].to(R.dtype)
        known = (A.sum(dim=-1, keepdim=True) > 0).to(R.dtype)
        return beta * known * (rownorm(A) @ R[:, event.keys] - R[:, event.queries])

    return change


def attention_share(event: Event, gradient: Gradient) -> Float[Tensor, " B"]:
    """Returns β = b / (a + b), with a and b the means of (∇Y ⊙ Y)⁺ and (∇Y' ⊙ Y')⁺; ½ if both are 0 (the paper is silent).

    ∇Y is the whole derivative by the residual input, which the attention reads too.
    """
    a = (gradient.Y * event.Y.detach()).clamp(min=0).mean(dim=(1, 2), dtype=event.A.dtype)
    b = (gradient.Y_out * event.Y_out.detach()).clamp(min=0).mean(dim=(1, 2), dtype=event.A.dtype)
    return (b / (a + b).where(a + b > 0, 1)).where(a + b > 0, 0.5)
