"""The memory of a method is that of the tensors it makes, and of as many passes as run at once."""

import torch

from clipmapper.benchmark.cost import cost_passes, peak

KILOBYTE = 256  # numbers


def test_peak_is_of_what_is_alive_together() -> None:
    kept = torch.ones(KILOBYTE, requires_grad=True)

    def work(copies: int) -> None:
        first = kept * 2
        second = first.view(16, 16).t()  # no memory of its own
        third = second.exp()  # which its backward pass keeps
        del first, second
        torch.cat([third] * copies)
        third.sum().backward()  # two numbers, and the gradients before exp and before the product

    assert peak(lambda: work(3), torch.device("cpu")) == (1 + 3) * 1024
    assert peak(lambda: work(1), torch.device("cpu")) == (1 + 2) * 1024 + 2 * 4


def test_passes_of_a_batch_are_watched_however_many_there_are() -> None:
    one = cost_passes(["genatt"])
    assert one == 2 * (1 + 2 * 1)
    assert cost_passes(["genatt", "integrated_gradients"]) == one + 3 * 34
    assert cost_passes(["genatt", "rise"]) == one + (1 + 52) + 2 * (1 + 7)
