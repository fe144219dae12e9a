"""What is measured on a GPU: time until it is done, and memory of its allocator."""

import pytest
import torch

from benchmarks.machine import DEVICE, described
from benchmarks.memory import peak_megabytes
from benchmarks.models import vit
from benchmarks.timing import seconds

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_time_is_until_the_device_is_done() -> None:
    matrix = torch.randn(4096, 4096, device=DEVICE)

    def products(count: int) -> None:
        for _ in range(count):
            matrix @ matrix

    products(3)
    few, many = (min(seconds(lambda n=n: products(n)) for _ in range(3)) for n in (10, 100))  # type: ignore[misc]
    assert many > 5 * few  # asking alone takes next to nothing


def test_peak_memory_is_that_of_the_allocator() -> None:
    peak = peak_megabytes(lambda: torch.ones(40 * 2**20 // 4, device=DEVICE).sum())
    assert peak is not None
    assert 40 <= peak < 45


def test_models_and_inputs_are_on_the_device_that_figures_name() -> None:
    model, pixels = vit(quick=True, batch=2)
    assert {tensor.device.type for tensor in (pixels, *model.parameters())} == {"cuda"}
    assert torch.cuda.get_device_name() in described(0)["device"]
