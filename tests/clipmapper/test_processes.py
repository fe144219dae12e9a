"""Of one process: the memory that it keeps. What several share is in the tests of training and of the benchmark."""

import platform
import sys

import psutil
import pytest
import torch

from clipmapper.processes import give_back_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason=f"{sys.platform} has another C library than glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    process = psutil.Process()
    pieces = [torch.ones(25_000) for _ in range(3000)]  # 100 kB each: too small for pages of their own
    last = torch.ones(25_000)  # after them on the heap, which does not shrink by itself below it
    full = process.memory_info().rss
    del pieces
    give_back_memory()
    assert full - process.memory_info().rss > 2e8
    assert last.sum() == 25_000
