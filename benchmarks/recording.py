"""What recording costs while a model is explained, and that it costs nothing outside `record`."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.entry import Entry, cost
from benchmarks.models import forward_backward, vit
from benchmarks.timing import in_turn
from xai import adapter_for, given, record


def run(quick: bool) -> list[Entry]:
    model, pixels = vit(quick, batch=2 if quick else 4)
    return [*_inside(model, pixels, quick), _outside(model, pixels, quick)]


def _inside(model: nn.Module, pixels: Tensor, quick: bool) -> list[Entry]:
    def recorded(gradients: bool) -> None:
        with record(model, adapter_for(model)) as recorder:
            model(pixels)
        if gradients:
            recorder.recording.gradients(given(0))

    runs = {
        "pass": lambda: model(pixels),
        "recorded": lambda: recorded(False),
        "both passes": lambda: forward_backward(model, pixels),
        "gradients": lambda: recorded(True),
    }
    times = in_turn(runs, 1 if quick else 5)
    return [
        cost("record, forward / forward", times, "recorded", "pass", note="keeps the graph and all maps"),
        cost("record and all gradients / forward + backward", times, "gradients", "both passes", 1.5),
    ]


def _outside(model: nn.Module, pixels: Tensor, quick: bool) -> Entry:
    """Two equal models train; one has been recorded before."""
    untouched, used = (deepcopy(model).train().requires_grad_() for _ in range(2))
    with record(used, adapter_for(used)):
        used(pixels)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in used.modules())
    times = in_turn(
        {"used": lambda: _train(used, pixels), "untouched": lambda: _train(untouched, pixels)}, 1 if quick else 5
    )
    return cost("training pass of a model recorded before / of one never recorded", times, "used", "untouched", 1.05)


def _train(model: nn.Module, pixels: Tensor) -> None:
    torch.manual_seed(0)
    model(pixels).logits.logsumexp(dim=-1).sum().backward()
    model.zero_grad()
