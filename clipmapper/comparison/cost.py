"""What each method costs alone: seconds a question, memory, and passes through the model."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from clipmapper.comparison.explained import Asked, record_once
from clipmapper.explain import FromPixels, answer_target
from clipmapper.model import CLIPMapper
from xai import explain_tape


@dataclass
class Cost:
    """Of one method on a batch of its own, its recording included; None where it was not measured."""

    seconds: float | None = None  # a question
    megabytes: float | None = None  # by which memory rose at most, on a GPU
    forward: int = 0  # passes of the whole batch
    backward: int = 0


def costs(model: CLIPMapper, asked: Asked, methods: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """By method. Figures of a busy machine are too high; compare them within one run."""
    if not methods:
        return {}
    _alone(model, asked, methods[0])  # what only the first call pays for is nobody's cost
    return {name: asdict(_alone(model, asked, name)) for name in methods}


def _alone(model: CLIPMapper, asked: Asked, method: str) -> Cost:
    cost, whole = Cost(), FromPixels(model)
    counter = whole.register_forward_hook(lambda module, args, output: _count(cost, output))
    try:
        with _peak(asked.inputs.ids.device) as memory:
            start = time.perf_counter()
            tape = record_once(model, asked.inputs, [method], whole)
            explain_tape(tape, method, answer_target(model, tape))
            if asked.inputs.ids.is_cuda:
                torch.cuda.synchronize()
            cost.seconds = (time.perf_counter() - start) / len(asked.ids)
        cost.megabytes = memory[0] if memory else None
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


@contextmanager
def _peak(device: torch.device) -> Iterator[list[float]]:
    """Puts into the list by how many MB memory rose at most; nothing on a CPU, where memory once used is not given back."""
    found: list[float] = []
    if device.type != "cuda":
        yield found
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    found.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
