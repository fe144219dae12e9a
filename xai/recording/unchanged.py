"""What a recording sets and gives back: modes, gradient flags, random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every module by each of its names, the model by "". torch's own walk, of generators in generators, is slow."""
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        found[name] = module
        parts = reversed(module._modules.items())
        waiting += [(f"{name}.{part}" if name else part, inner) for part, inner in parts if inner is not None]
    return found


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters; each module and parameter gets its own back."""
    modes = [(module, module.training) for module in modules_of(model).values()]
    own = (module._parameters.values() for module, _ in modes)  # one walk, where `parameters` takes one of each module
    flags = [(parameter, parameter.requires_grad) for some in own for parameter in some if parameter is not None]
    try:
        if any(mode for _, mode in modes):
            model.eval()
        for parameter, flag in flags:
            if flag:
                parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:  # setting an attribute of a module is slow
                module.training = mode
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """The generators of the CPU and of the model's cards are afterwards as they were."""
    used = torch.cuda.is_initialized()
    cards = {parameter.device for parameter in model.parameters() if parameter.is_cuda} if used else ()
    with torch.random.fork_rng(devices=list(cards)):
        yield
