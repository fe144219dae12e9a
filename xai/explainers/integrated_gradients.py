"""Integrated gradients (Sundararajan, Taly & Yan 2017) from a baseline to the states, all modalities at once."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.explainers.algebra import scores_traced_back
from xai.explainers.states import State, gradients_at, standing, times, vectors
from xai.recording.recording import Recording, Score
from xai.targets import decided

Baseline = str | Mapping[str, Tensor]  # "zero", "mean", or tensors by modality


def integrated_gradients(
    recording: Recording, target: Score, steps: int = 32, baseline: Baseline = "mean", layer: int = 0
) -> Float[Tensor, "B T"]:
    """Shares out the target's difference between the input and a baseline, one pass of the model for each step.

    Near zero a layer norm is all but discontinuous, so "zero" needs a model without one or very many steps. A target that
    chooses its class keeps the one it has on the input.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B].
        steps: nodes of the integral by the rule of Gauss and Legendre.
        baseline: "mean" of the sample's real tokens, the "zero" state, or tensors [B, tokens, D] by modality (one left out
            keeps its state).
        layer: whose residual inputs are changed, counted from 0, the embeddings. Tokens that are made from others stand for
            those from their first layer on.

    Returns:
        Scores [B, T] that sum to the difference; negative ones speak against the target.

    Raises:
        ValueError: fewer than one step, a baseline that is none of these, or a layer that there is not, that comes after the
            last attention of a modality, or whose states other attentions read before they can be changed.

    Source:
        Sundararajan et al. 2017, eq. 1, prop. 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; give at least 1")
    state = standing(recording, layer)
    _require_all(recording, layer, state)
    target, x = decided(target, recording.output), vectors(state)
    start = baseline_of(recording, x, baseline)
    way = {name: x[name] - start[name] for name in x}
    total = torch.zeros_like(recording.mask, dtype=recording.readout.dtype)
    nodes, weights = (t.tolist() for t in gauss_legendre(steps))
    line = ({name: start[name] + at * way[name] for name in x} for at in nodes)
    for weight, slopes in zip(weights, gradients_at(recording, target, line, layer), strict=True):
        total = total + weight * times(recording, slopes, way)
    return scores_traced_back(recording, total)


# The nodes of numpy.polynomial.legendre.leggauss to 1e-15: explainers need torch alone, which has no quadrature of the kind.
def gauss_legendre(steps: int) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Returns nodes and weights of the quadrature on [0, 1], by the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, steps, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(beside.diag(1) + beside.diag(-1))
    return (nodes + 1) / 2, vectors[0] ** 2


def _require_all(recording: Recording, layer: int, state: State) -> None:
    """Raises ValueError for a modality that has no event from a layer on: what it is there was not recorded."""
    later = {event for events in recording.layers[layer:] for event in events}
    if ended := [name for name, (event, _) in state.items() if event not in later]:
        raise ValueError(
            f"layer is {layer}, which comes after the last attention of {', '.join(ended)}; give an earlier one"
        )


def baseline_of(recording: Recording, x: Mapping[str, Tensor], baseline: Baseline) -> dict[str, Tensor]:
    """Returns where the line to the embeddings x starts, [B, tokens, D] by modality; raises ValueError for another baseline."""
    if baseline == "zero":
        return {name: torch.zeros_like(tokens) for name, tokens in x.items()}
    if baseline == "mean":
        return {name: _mean(tokens, recording.mask[:, recording.modalities[name]]) for name, tokens in x.items()}
    if isinstance(baseline, str):
        raise ValueError(f"baseline is {baseline!r}; give 'zero', 'mean' or tensors by modality")
    if unknown := baseline.keys() - x.keys():
        raise ValueError(f"the baseline names modality {', '.join(unknown)}; the model has {', '.join(x)}")
    return {name: baseline.get(name, tokens).expand_as(tokens) for name, tokens in x.items()}


def _mean(tokens: Float[Tensor, "B tokens D"], mask: Bool[Tensor, "B tokens"]) -> Float[Tensor, "B tokens D"]:
    """Returns the mean of the real tokens at every token."""
    weights = mask.to(tokens.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights[:, None] @ tokens).expand_as(tokens)
