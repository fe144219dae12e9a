"""By how much the memory of this process rises at most while something runs."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_megabytes(run: Callable[[], object]) -> float | None:
    """Of resident memory, in MB, as Linux counts it; None elsewhere. Run it once before, so that libraries are loaded."""
    if not CLEAR.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left in the heap would be used again, unseen
    CLEAR.write_text("5")  # the peak starts anew
    before = kilobytes("VmRSS")
    run()
    return max(0, kilobytes("VmHWM") - before) / 1024


def kilobytes(name: str) -> int:
    """Of this process by /proc/self/status: VmRSS is resident now, VmHWM at most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])
