"""What each method costs alone: seconds a question, memory, and passes through the model."""

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipmapper.comparison.explained import PreparedQuestions, record_once
from clipmapper.explain.answers import FromPixels, answer_target
from clipmapper.models.clip_mapper import CLIPMapper
from xai import explain_recording


@dataclass
class Cost:
    """Of one method on a batch of its own, its recording included; None where it was not measured."""

    seconds: float | None = None  # a question
    megabytes: float | None = None  # by which memory rose at most: a GPU's, or that of tensors on a CPU
    forward: int = 0  # passes of the whole batch
    backward: int = 0


def costs(
    model: CLIPMapper, asked: PreparedQuestions, methods: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    """By method. Figures of a busy machine are too high; compare them within one run."""
    if not methods:
        return {}
    _alone(model, asked, methods[0])  # what only the first call pays for is nobody's cost
    return {name: asdict(_alone(model, asked, name)) for name in methods}


def _alone(model: CLIPMapper, asked: PreparedQuestions, method: str) -> Cost:
    cost, whole = Cost(), FromPixels(model)

    def work() -> None:
        recording = record_once(model, asked.inputs, [method], whole)
        explain_recording(recording, method, answer_target(model, recording))

    counter = whole.register_forward_hook(lambda module, args, output: _count(cost, output))
    try:
        start = time.perf_counter()
        work()
        if asked.ids.is_cuda:
            torch.cuda.synchronize()
        cost.seconds = (time.perf_counter() - start) / len(asked.ids)
        counter.remove()
        cost.megabytes = peak(work, asked.ids.device) / 2**20  # again: to watch memory takes time
    except Exception:  # its row says why, and has no cost
        return Cost()
    finally:
        counter.remove()
    return cost


def _count(cost: Cost, output: Tensor) -> None:
    """Gradients and relevance alike come back through the answer's logits."""
    cost.forward += 1

    def back(gradient: Tensor) -> None:
        cost.backward += 1

    if output.requires_grad:
        output.register_hook(back)


def peak(work: Callable[[], None], device: torch.device) -> int:
    """By how many bytes memory rose at most."""
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
        there = {storage._cdata for storage in _storages((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            if storage._cdata not in there | self._known:
                self._add(storage)
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
