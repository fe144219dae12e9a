"""The progress of a benchmark in passes of one sample through the model, within a batch too."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from xai.explainers.method import SHORTER
from xai.metrics.perturbation import Perturbed, Predict


class Progress:
    """Passes that are done.

    Args:
        bar: shows them; None shows nothing.
    """

    def __init__(self, bar: tqdm | None = None) -> None:
        self.bar = bar
        self.done, self.limit = 0.0 if bar is None else float(bar.n), inf

    @contextmanager
    def part(self, passes: int) -> Iterator[None]:
        """Counts a part as the passes that it was planned to take at most, however many it takes."""
        self.limit = self.done + passes
        yield
        self.add(passes)
        self.limit = inf

    def add(self, passes: float) -> None:
        self.done = min(self.done + passes, self.limit)
        if self.bar is not None and int(self.done) > self.bar.n:
            self.bar.update(int(self.done) - self.bar.n)

    @contextmanager
    def passes(self, module: nn.Module, samples: int) -> Iterator[None]:
        """Counts each forward pass of a module as one of so many samples, or as several if they are in it several times.

        One without gradients is of inputs without some tokens.
        """

        def count(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs = samples * copies((args, kwargs), samples)
            self.add(inputs if torch.is_grad_enabled() else max(samples, inputs / SHORTER))

        handle = module.register_forward_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def removals(self, predict: Predict) -> Predict:
        """Returns the same function, which counts its inputs."""

        def counted(part: Perturbed) -> Mapping[str, Tensor]:
            figures = predict(part)
            self.add(len(part.rows) / SHORTER)
            return figures

        return counted


def copies(arguments: Any, samples: int) -> int:
    """Returns how many times a batch of so many samples is in a call's arguments: by the tensor with fewest rows."""
    lengths = [len(leaf) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim() > 1]
    return max(1, min(lengths, default=samples) // samples)


@contextmanager
def progress_bar(name: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Shows how many of `total` passes are done, and the time left by the mean rate: passes of methods and of removal differ."""
    with tqdm(desc=name, unit="pass", total=total, initial=done, smoothing=0) as bar:
        yield Progress(bar)
