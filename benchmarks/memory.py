"""By how much the memory in use rises at most while something runs."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import DEVICE, synchronise

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_megabytes(run: Callable[[], object]) -> float | None:
    """In MB: of the GPU as torch's allocator counts it, else resident memory as Linux does; None where neither is.

    Run it once before, so that libraries are loaded.
    """
    gc.collect()
    if DEVICE.type == "cuda":
        return _of_allocator(run)
    if not CLEAR.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left in the heap would be used again, unseen
    CLEAR.write_text("5")  # the peak starts anew
    before = kilobytes("VmRSS")
    run()
    return max(0, kilobytes("VmHWM") - before) / 1024


def _of_allocator(run: Callable[[], object]) -> float:
    synchronise()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    synchronise()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def kilobytes(name: str) -> int:
    """Of this process by /proc/self/status: VmRSS is resident now, VmHWM at most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])
