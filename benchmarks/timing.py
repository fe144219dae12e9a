"""Seconds of runs in turn, so that all see the same machine."""

import time
from collections.abc import Callable, Mapping

from benchmarks.machine import synchronise

Run = Callable[[], object]


def in_turn(runs: Mapping[str, Run], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each run, round by round; the order turns round every time. `warm`: the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + warm):
        for name in list(runs) if number % 2 else list(runs)[::-1]:
            spent = seconds(runs[name])
            if number >= warm:
                times[name].append(spent)
    return times


def seconds(run: Run) -> float:
    """From an idle device until all that was asked of it is done."""
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start
