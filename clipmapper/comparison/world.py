"""The processes that share one comparison, and how the others wait for what one of them writes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import distributed
from tqdm import tqdm

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun; srun, not sbatch alone
LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")
PATIENCE = 1800.0  # seconds without anything new
PAUSE = 0.5  # seconds


@dataclass(frozen=True)
class World:
    """This process and how many there are; the first one sums up."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batches: Sequence[int]) -> Sequence[int]:
        return batches[self.rank :: self.size]


def world(environment: Mapping[str, str] = os.environ) -> World:
    """From an initialised torch.distributed group, else from what torchrun, Lightning or srun tells; else alone."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    for rank, size in LAUNCHERS:
        if rank in environment and size in environment:
            return World(int(environment[rank]), int(environment[size]))
    return World()


def own_device(device: torch.device, environment: Mapping[str, str] = os.environ) -> torch.device:
    """Each process of a machine its own GPU, as long as there are any."""
    local = next((int(environment[name]) for name in LOCAL if name in environment), 0)
    return device if device.type != "cuda" else torch.device("cuda", local % torch.cuda.device_count())


def wait(there: Callable[[], int], count: int, what: str) -> None:
    """Until `there` counts `count`; raises TimeoutError when nothing has come for PATIENCE."""
    found, since = there(), time.monotonic()
    with tqdm(desc=f"waiting for {what}", total=count, initial=found, disable=found == count) as bar:
        while found < count:
            time.sleep(PAUSE)
            now = there()
            if now != found:
                bar.update(now - found)
                found, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise TimeoutError(
                    f"{found} of {count} {what} are there, and nothing has come for {PATIENCE / 60:.0f} minutes: "
                    "has a process died? Start all again with the same --output: they go on"
                )
