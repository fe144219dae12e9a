"""Several processes at one work: who they are, what they gather together, how one waits for files of another.

A single process is a world of one. Those of a training are in a group of torch.distributed; those of an evaluation need
none, for they only share files.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from tqdm import tqdm

T = TypeVar("T")

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun; srun, not sbatch alone
LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")
GROUP_PATIENCE = timedelta(
    days=1
)  # a process that is done waits that long for the slowest; NCCL would give up in minutes
FILE_PATIENCE = 1800.0  # seconds without anything new
PAUSE = 0.5  # seconds


@dataclass(frozen=True)
class World:
    """This process's number among those of all machines, and how many there are; the first one sums up."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.rank :: self.size]


def grouped() -> World | None:
    """The processes of the torch.distributed group; None before it is initialised."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return World(distributed.get_rank(), distributed.get_world_size())


def launched(environment: Mapping[str, str] = os.environ) -> World:
    """Returns the processes of the group, or else those that torchrun, Lightning or srun started together; else alone."""
    if group := grouped():
        return group
    for rank, size in LAUNCHERS:
        if rank in environment and size in environment:
            return World(int(environment[rank]), int(environment[size]))
    return World()


def places(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Returns how many processes torchrun or srun started on each machine, and on how many machines; else None."""
    if "LOCAL_WORLD_SIZE" in environment and "WORLD_SIZE" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    if "SLURM_NTASKS_PER_NODE" in environment and "SLURM_NNODES" in environment:
        return int(environment["SLURM_NTASKS_PER_NODE"]), int(environment["SLURM_NNODES"])
    return None


def own_device(device: torch.device, environment: Mapping[str, str] = os.environ) -> torch.device:
    """Each process of a machine its own GPU, as long as there are any."""
    local = next((int(environment[name]) for name in LOCAL if name in environment), 0)
    return device if device.type != "cuda" else torch.device("cuda", local % torch.cuda.device_count())


@contextmanager
def patient_group() -> Iterator[Any]:
    """A group of all processes for work of unequal length, which they enter together; None where there is one."""
    if grouped() is None:
        yield None
        return
    group = distributed.new_group(backend="gloo", timeout=GROUP_PATIENCE)
    yield group
    distributed.destroy_process_group(group)


def all_gathered(value: T, group: Any = None) -> list[T]:
    """The values of every process of the group, in the order of their numbers; each waits for all."""
    world = grouped()
    if world is None:
        return [value]
    gathered: list[Any] = [None] * world.size
    distributed.all_gather_object(gathered, value, group)
    return gathered


def wait(there: Callable[[], int], count: int, what: str) -> None:
    """Until `there` counts `count`; raises TimeoutError when nothing has come for FILE_PATIENCE."""
    present, since = there(), time.monotonic()
    with tqdm(desc=f"waiting for {what}", total=count, initial=present, disable=present == count) as bar:
        while present < count:
            time.sleep(PAUSE)
            now = there()
            if now != present:
                bar.update(now - present)
                present, since = now, time.monotonic()
            elif time.monotonic() - since > FILE_PATIENCE:
                raise TimeoutError(
                    f"{present} of {count} {what} are there, and nothing has come for {FILE_PATIENCE / 60:.0f} minutes: "
                    "has a process died? Start all again with the same --output: they go on"
                )


def give_back_memory() -> None:
    """Gives freed memory back to the system. glibc keeps it in pieces between tensors of many sizes: gigabytes in an hour."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
