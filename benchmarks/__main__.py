"""Runs all benchmarks, or those named, and writes what they found."""

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from benchmarks.entry import Entry
from benchmarks.machine import described
from benchmarks.models import SEED
from benchmarks.plots import save_plots
from benchmarks.table import HEADER, line
from xai.files import replacing

BENCHMARKS = (  # modules of this package, each with `run(quick)`
    "recording",
    "explainers",
    "batching",
    "lrp",
    "perturbation",
    "rewriting",
    "decoding",
    "words",
    "feature_cache",
    "training_step",
    "data_loading",
    "growth",
    "gpu",
    "peers",
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; without, all of them")
    made.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of results.json and plots")
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that all runs, and nothing else")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The exit code is the number of benchmarks that raised."""
    options = parser().parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser().error(f"no benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    machine, found, failed, seconds = described(SEED), dict[str, list[Entry]](), 0, dict[str, float]()
    print(f"on {machine['device']}\n{HEADER}", flush=True)
    for name in options.names or BENCHMARKS:
        start = time.perf_counter()
        try:
            with only_errors_logged():
                found[name] = import_module(f"benchmarks.{name}").run(options.quick)
        except Exception as error:  # the others are still of use
            traceback.print_exc()
            found[name], failed = [Entry("failed", note=repr(error))], failed + 1
        seconds[name] = time.perf_counter() - start
        for entry in found[name]:
            print(line(name, entry, options.quick), flush=True)
    save(options.output, machine | {"quick": options.quick, "seconds": seconds}, found)
    print(f"written to {options.output}; {sum(seconds.values()):.0f} s" + " (quick: no claims)" * options.quick)
    return failed


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Leaves out warnings of random weights and advice of Lightning, which would part the lines of the table."""
    loggers = [logging.getLogger(), logging.getLogger("pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def save(folder: Path, machine: dict, found: dict[str, list[Entry]]) -> None:
    """`results.json`, and `growth.png` of what was measured at several sizes."""
    results = {name: [entry.record(machine["quick"]) for entry in entries] for name, entries in found.items()}
    with replacing(folder / "results.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    save_plots([entry for entries in found.values() for entry in entries], folder / "growth.png")


if __name__ == "__main__":
    sys.exit(main())
