"""The cost of each method alone: seconds a sample, memory, and passes through the model."""

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipmapper.benchmark.progress import Progress, copies
from clipmapper.benchmark.task import Batch, Task
from xai.explainers.registry import Method, method_named
from xai.explanation import explain_each, explain_recording, record_for

WATCHED = 2  # passes that one counts as while memory is watched
BATCH = 64  # passes of a method of many that fill a batch: more take time, and no more memory
Costs = dict[str, dict[str, Any]]  # by method


@dataclass
class Cost:
    """The cost of one method on a batch of its own, its recording included; None where it was not measured.

    Attributes:
        seconds: of a sample.
        megabytes: by which memory rose at most: a GPU's, or that of tensors on a CPU.
        forward: passes of the whole batch.
        backward: passes of the whole batch.
        reason: why there is no cost.
    """

    seconds: float | None = None
    megabytes: float | None = None
    forward: int = 0
    backward: int = 0
    reason: str | None = None


def cost_passes(methods: Sequence[str], targets: int = 1) -> int:
    """Returns the passes of a sample of some targets: each method is timed and then watched, the first one once more before."""
    known = list(map(method_named, methods))
    counts = [1 + one.further(None, targets) + WATCHED * (1 + one.further(_a_batch(one), targets)) for one in known]
    return sum(counts) + sum(counts[:1])


def costs(
    task: Task, batch: Batch, methods: Sequence[str], kept: Costs, keep: Callable[[Costs], None], progress: Progress
) -> None:
    """Adds the cost of each method that `kept` lacks, and keeps them after each.

    Figures of a busy machine are too high; compare them within one run.
    """
    missing = [name for name in methods if name not in kept]
    if missing:
        _alone(task, batch, methods[0], progress)  # what only the first call pays for is nobody's cost
    for name in missing:
        kept[name] = asdict(_alone(task, batch, name, progress))
        keep(kept)


def _alone(task: Task, batch: Batch, method: str, progress: Progress) -> Cost:
    cost, errors, options = Cost(), dict[str, str](), _a_batch(method_named(method))

    def work() -> None:
        recorded = record_for([method], partial(task.record, batch))
        errors.update(explain_each(recorded.recording, [method], recorded.target)[1])

    def a_batch() -> None:
        recorded = record_for([method], partial(task.record, batch))
        explain_recording(recorded.recording, method, recorded.target, **options)

    counter = task.module.register_forward_hook(partial(_count, cost, len(batch.ids)), with_kwargs=True)
    device = next(task.module.parameters()).device
    try:
        with progress.passes(task.module, len(batch.ids)):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            cost.seconds = (time.perf_counter() - start) / len(batch.ids)
    finally:
        counter.remove()
    if errors:
        return Cost(reason=next(iter(errors.values())))
    with progress.passes(task.module, WATCHED * len(batch.ids)):
        cost.megabytes = peak(a_batch, device) / 2**20  # again: to watch memory takes time
    return cost


def _a_batch(method: Method) -> dict[str, int]:
    """Options of a run with as many passes as fill a batch."""
    if method.counted is None or method.count is None:
        return {}
    return {method.counted: min(method.count, max(method.least, BATCH))}


def _count(cost: Cost, samples: int, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    """Counts the passes in a call, and the backward passes that come through its first output with a gradient."""
    passes = copies((args, kwargs), samples)
    cost.forward += passes

    def back(gradient: Tensor) -> None:
        cost.backward += passes

    leaves = output.values() if isinstance(output, dict) else tree_leaves(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    if tensors:
        tensors[0].register_hook(back)


def peak(work: Callable[[], None], device: torch.device) -> int:
    """Returns by how many bytes memory rose at most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _Alive() as alive:
        work()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive, in the backward pass too.

    Not those that an operation makes for itself. A process's own memory would not do: once used it is not given back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            for made in (result,) if isinstance(result, Tensor) else tree_leaves(result):
                if isinstance(made, Tensor):
                    self._add(made.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@cache
def _is_view(operation: Any) -> bool:
    """Returns whether what an operation returns is what it was given, as a whole, in part or changed."""
    return "view" in operation._schema.name or all(value.alias_info is not None for value in operation._schema.returns)
