"""Scripts of the repository in processes of their own that need not import everything anew.

One process a session imports what the scripts import, and forks before it has any thread; a script started here is a
fork of it. Arguments, environment, exit code, signals and what is printed are those of `python train.py ...`.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["clipmapper.training.run", "clipmapper.evaluation.run"])


class Command:
    """A script that runs; `printed` is what it has written to its standard output and errors so far."""

    def __init__(self, process: ForkServerProcess, log: Path) -> None:
        self.process, self.log = process, log

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self.process.is_alive()

    def wait(self, timeout: float = 600) -> int:
        """Waits for the end; returns the exit code, negative for a signal."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"the command did not end within {timeout:g} s:\n{self.printed}")
        return code

    def kill_when(self, path: Path, pattern: str, timeout: float = 300) -> None:
        """Sends SIGKILL as soon as the folder `path` holds a file that matches."""
        deadline = time.monotonic() + timeout
        while not any(path.glob(pattern)):
            assert self.runs and time.monotonic() < deadline, self.printed
            time.sleep(0.01)
        self.process.kill()
        self.process.join()


def start(
    folder: Path, script: str | Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> Command:
    """Starts `python SCRIPT ARGUMENTS` in `folder`, which holds its log and its cache of data sets too.

    `script` is the name of one of the repository's, or a path; `environment` is added to that of the tests.
    """
    number = len(list(folder.glob("command-*.log")))
    log = folder / f"command-{number}.log"
    log.touch()
    values = {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets"), **(environment or {})}
    process = FORKS.Process(target=_run, args=(REPOSITORY / script, [*map(str, arguments)], folder, log, values))
    process.start()
    return Command(process, log)


def call(folder: Path, script: str | Path, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Runs a script to its end, which must be a good one; returns all it printed."""
    command = start(folder, script, *arguments, environment=environment)
    assert command.wait() == 0, command.printed
    return command.printed


def _run(script: Path, arguments: list[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
    import datasets  # imported already: its cache is no longer read from the environment

    os.environ.update(environment)
    datasets.config.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])
    os.chdir(folder)
    with open(log, "ab", buffering=0) as stream, open(os.devnull) as nothing:
        for source, number in ((nothing, 0), (stream, 1), (stream, 2)):
            os.dup2(source.fileno(), number)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(REPOSITORY))
    with exit_functions():
        runpy.run_path(str(script), run_name="__main__")


@contextmanager
def exit_functions() -> Iterator[None]:
    """Runs in a fork what a program runs at its end, which a process of multiprocessing leaves without.

    What the process that it comes from has made, such as W&B's folder for pictures, is not the fork's to clear away.
    """
    atexit._clear()
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # the next one registers itself anew
    for inherited in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        inherited.atexit = False
    try:
        yield
    finally:
        atexit._run_exitfuncs()
