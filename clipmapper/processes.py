"""What the processes of one training do together, whatever launched them; a single process is a world of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # a process that is done waits that long for the slowest; NCCL would give up in minutes


def rank_and_world() -> tuple[int, int]:
    """This process's number among all machines', and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def patient_group() -> Iterator[Any]:
    """A group of all processes for work of unequal length, which they enter together; None where there is one."""
    if not distributed.is_initialized():
        yield None
        return
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    yield group
    distributed.destroy_process_group(group)


def all_gathered(value: T, group: Any = None) -> list[T]:
    """The values of every process, in the order of their numbers; each waits for all."""
    _, world = rank_and_world()
    if not distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * world
    distributed.all_gather_object(gathered, value, group)
    return gathered
