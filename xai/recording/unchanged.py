"""What a recording sets and gives back: modes, gradient flags, random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters; each module and parameter gets its own back."""
    modules, parameters = list(model.modules()), list(model.parameters())
    training = [module for module in modules if module.training]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        if training:
            model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in modules:  # setting an attribute of a module is slow
            if module.training:
                module.training = False
        for module in training:
            module.training = True
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """The generators of the CPU and of the model's cards are afterwards as they were."""
    cards = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(cards)):
        yield
