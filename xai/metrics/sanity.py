"""Does an explanation depend on what the model has learned? Model-parameter randomisation (Adebayo et al. 2018).

Smoothed as by Hedström et al. (2024): each explanation is the mean over noisy inputs, so that noise in single maps does
not pass for sensitivity.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

Explain = Callable[[int], Tensor]  # relevance [..., B, T] of the inputs with the noise of that draw, 0, 1, ...


def randomisation(
    model: nn.Module,
    explain: Explain,
    groups: Sequence[Sequence[str]],
    valid: Tensor | None = None,
    draws: int = 8,
    seed: int = 0,
    cascade: bool = True,
) -> Tensor:
    """Rank correlation of each sample's relevance with what it was before, [groups, ..., B]; near 0 is good.

    `explain` may give several methods at once, [methods, B, T]. The parameters of the modules that `groups` name are
    shuffled, each within its tensor: group after group and without going back, so from the head down, or with `cascade`
    off each group alone. Shuffling needs no initialiser and keeps the distribution. Afterwards, also after an exception,
    the parameters are as before. `valid` [B, T] leaves padding and special tokens out.
    """
    before = _smoothed(explain, draws)
    valid = torch.ones(before.shape[-2:], dtype=torch.bool, device=before.device) if valid is None else valid
    generator, found = torch.Generator().manual_seed(seed), []
    with ExitStack() as stack:
        for group in groups:
            if not cascade:
                stack.close()
            modules = [model.get_submodule(name) for name in group]
            stack.enter_context(_shuffled(modules, generator))
            found.append(rank_correlation(before, _smoothed(explain, draws), valid))
    return torch.stack(found)


@contextmanager
def noisy_output(module: nn.Module, level: float, seed: int) -> Iterator[None]:
    """Adds Gaussian noise to what the module gives, with `level` times each sample's range [B, ...] as deviation.

    For a module that embeds inputs this is noise on inputs, images and words alike.
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


def rank_correlation(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Spearman's correlation of the valid entries, [..., n] to [...]; NaN where one of them is constant or not finite."""
    x, y = (_centred_ranks(scores, valid) for scores in (a, b))
    return (x * y).sum(dim=-1) / ((x**2).sum(dim=-1) * (y**2).sum(dim=-1)).sqrt()


def _centred_ranks(scores: Tensor, valid: Tensor) -> Tensor:
    """Ranks minus their mean, 0 where not valid; equal scores share their mean rank."""
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
