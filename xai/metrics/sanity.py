"""Tests whether explanations depend on what the model has learned: model-parameter randomisation (Adebayo et al. 2018).

Smoothed as by Hedström et al. (2024): each explanation is the mean over noisy inputs, so that noise in single maps does
not pass for sensitivity.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Explain = Callable[[int], Tensor]  # relevance [..., B, T] of the inputs with the noise of that draw, 0, 1, ...


def randomisation(
    model: nn.Module,
    explain: Explain,
    groups: Sequence[Sequence[str]],
    valid: Bool[Tensor, "B T"] | None = None,
    draws: int = 8,
    seed: int = 0,
    cascade: bool = True,
) -> Float[Tensor, "groups *methods B"]:
    """Correlates each sample's relevance with what it is after parameters were shuffled; near 0 is good.

    Shuffling needs no initialiser and keeps the distribution of the parameters. Afterwards, also after an exception, they are
    as before.

    Args:
        model: whose parameters are shuffled, each within its tensor.
        explain: from the number of a draw of noise, 0, 1, ..., to relevance [B, T], or of several methods [methods, B, T].
        groups: names of modules, group by group, from the head down.
        valid: [B, T], False at padding and special tokens; None where all count.
        draws: noisy inputs over which each explanation is averaged.
        seed: of the shuffling.
        cascade: shuffles group after group without going back; False shuffles each group alone.

    Returns:
        Spearman's correlation [groups, ..., B], -1 to 1; NaN as in `rank_correlation`.

    Source:
        Adebayo et al. 2018; smoothed as by Hedström et al. 2024.

    Example:
        >>> import torch
        >>> from xai.metrics.sanity import randomisation
        >>> model = torch.nn.ModuleDict({"head": torch.nn.Linear(6, 1)})
        >>> randomisation(model, lambda draw: torch.arange(6.0)[None], [["head"]]).tolist()  # looks at no parameter
        [[1.0]]
    """
    before = _smoothed(explain, draws)
    valid = torch.ones(before.shape[-2:], dtype=torch.bool, device=before.device) if valid is None else valid
    generator, correlations = torch.Generator().manual_seed(seed), []
    with ExitStack() as stack:
        for group in groups:
            if not cascade:
                stack.close()
            modules = [model.get_submodule(name) for name in group]
            stack.enter_context(_shuffled(modules, generator))
            correlations.append(rank_correlation(before, _smoothed(explain, draws), valid))
    return torch.stack(correlations)


@contextmanager
def noisy_output(module: nn.Module, level: float, seed: int) -> Iterator[None]:
    """Adds Gaussian noise to the outputs of a module in the block: for one that embeds inputs, noise on images and words alike.

    Args:
        module: gives tensors [B, ...].
        level: the noise's standard deviation, as a share of the range of each sample's outputs.
        seed: of the noise, which is the same in every call.

    Example:
        >>> import torch
        >>> from xai.metrics.sanity import noisy_output
        >>> embed, x = torch.nn.Identity(), torch.tensor([[0.0, 1.0]])
        >>> with noisy_output(embed, level=0.2, seed=0):
        ...     noisy = embed(x)
        >>> torch.equal(noisy, x), torch.equal(embed(x), x)
        (False, True)
    """

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        flat = output.detach().flatten(1)
        deviation = level * (flat.amax(dim=1) - flat.amin(dim=1))
        noise = torch.randn(output.shape, generator=generator).to(output)
        return output + noise * deviation.reshape(-1, *[1] * (output.dim() - 1))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# torchmetrics' spearman_corrcoef has no mask, calls a constant 0, and takes seven times as long (672 rows of 60: 449 ms to 66).
def rank_correlation(
    a: Float[Tensor, "*axes n"], b: Float[Tensor, "*axes n"], valid: Bool[Tensor, "..."]
) -> Float[Tensor, "*axes"]:
    """Returns Spearman's correlation of the valid entries.

    Args:
        a: [..., n].
        b: [..., n].
        valid: [..., n], or fewer axes in front.

    Returns:
        [...], -1 to 1; NaN where the entries of one are equal or not finite.

    Example:
        >>> import torch
        >>> from xai.metrics.sanity import rank_correlation
        >>> a = torch.tensor([1.0, 2.0, 3.0])
        >>> round(rank_correlation(a, -a**3, a > 0).item(), 6)
        -1.0
    """
    x, y = (_centred_ranks(scores, valid) for scores in (a, b))
    return (x * y).sum(dim=-1) / ((x**2).sum(dim=-1) * (y**2).sum(dim=-1)).sqrt()


def _centred_ranks(scores: Float[Tensor, "*axes n"], valid: Bool[Tensor, "..."]) -> Float[Tensor, "*axes n"]:
    """Returns ranks minus their mean, 0 where not valid; equal scores share their mean rank."""
    scores = scores.double().masked_fill(~valid, torch.inf).contiguous()
    ascending = scores.sort(dim=-1).values
    below, up_to = (torch.searchsorted(ascending, scores, right=right) for right in (False, True))
    middle = (valid.sum(dim=-1, keepdim=True) - 1) / 2
    ranks = ((below + up_to - 1).double() / 2 - middle).masked_fill(~valid, 0)
    return ranks.where((scores.isfinite() | ~valid).all(dim=-1, keepdim=True), torch.nan)


def _smoothed(explain: Explain, draws: int) -> Tensor:
    return torch.stack([explain(draw).detach() for draw in range(draws)]).mean(dim=0)


@contextmanager
def _shuffled(modules: Sequence[nn.Module], generator: torch.Generator) -> Iterator[None]:
    """Shuffles each parameter within its tensor, and gives back what it was."""
    saved = [(p, p.detach().clone()) for p in dict.fromkeys(p for module in modules for p in module.parameters())]
    try:
        with torch.no_grad():
            for parameter, value in saved:
                order = torch.randperm(value.numel(), generator=generator).to(value.device)
                parameter.copy_(value.flatten()[order].view_as(value))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
