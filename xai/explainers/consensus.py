"""What four ways of carrying relevance back agree on, each believed as far as its relevance does not cancel."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.explainers.input_gradient import input_gradient
from xai.explainers.input_relevance import attn_lrp, cp_lrp
from xai.recording.recording import Recording, Score


def consensus(recording: Recording, target: Score, gamma: float = 0.25) -> Float[Tensor, "B T"]:
    """Returns how probable it is that a token decides, by gradient times input, AttnLRP, and CP-LRP without and with gamma.

    Each holds more of the model constant than the one before: nothing; norms and activations; attention too; and with
    gamma, contributions that cancel each other count less. Every modality is asked for itself: of its n content tokens one
    decides, any of them with the same odds, 1 / n. A way of carrying relevance back multiplies a token's odds by
    ρ n p + 1 - ρ, with p the token's share of the positive relevance, and ρ = (Σ R)⁺ / Σ |R| the belief in it: relevance
    that cancels is noise. The derivation is in docs/consensus.md.

    Args:
        recording: one forward pass, recorded with `lrp="tokens"`.
        target: from the model's outputs to one number a sample, [B].
        gamma: of the last of the four, on linear layers.

    Returns:
        Scores [B, T], from 0 to 1; of special tokens too, on the scale of the content.

    Source:
        This project; a product of experts (Hinton 2002).
    """
    relevances = (
        input_gradient(recording, target),
        attn_lrp(recording, target),
        cp_lrp(recording, target),
        cp_lrp(recording, target, gamma),
    )
    content, scores = recording.mask & ~recording.special, torch.zeros_like(relevances[0])
    for tokens in recording.inputs.values():
        inside = content[:, tokens]
        count = inside.sum(dim=1, keepdim=True).clamp(min=1)
        factors = torch.stack([likelihood_ratio(R[:, tokens].to(scores), inside) for R in relevances])
        scores[:, tokens] = torch.sigmoid(factors.log().sum(dim=0) - count.to(scores).log())
    return scores


def likelihood_ratio(R: Float[Tensor, "B n"], content: Bool[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Returns ρ n p + 1 - ρ of one modality's relevance; 1 where it says nothing, as when no relevance is positive.

    Args:
        R: [B, n], signed.
        content: [B, n], False at padding and special tokens, which count for neither n, p nor ρ.
    """
    inside = R * content
    total = inside.clamp(min=0).sum(dim=1, keepdim=True)
    magnitude = inside.abs().sum(dim=1, keepdim=True)
    belief = inside.sum(dim=1, keepdim=True).clamp(min=0) / magnitude.where(magnitude > 0, 1)
    share = R.clamp(min=0) / total.where(total > 0, 1)
    return belief * content.sum(dim=1, keepdim=True) * share + 1 - belief
