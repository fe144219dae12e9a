"""All explainers that need one backward pass, together, against one forward and backward pass to the input.

python benchmarks/explainers.py [--batch 32] [--model ViT-B-32] [--rounds 3] [--device cpu] [--alone]
"""

import argparse
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any

import open_clip
import psutil
import torch
from torch import Tensor, nn

from xai import adapter_for, explain, explain_tape, record, similarity

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("raw_attention", {}),
    ("rollout", {}),
    ("attention_gradcam", {}),
    ("genatt", {}),
    ("genatt", {"normalise": False}),
    ("genatt", {"aggregate": False}),
    ("genatt", {"self_in_cross": False}),
    ("wra", {}),
    ("wra", {"equal_weights": True}),
    ("interaction", {}),
    ("interaction", {"mutual": True}),
    ("attcat", {}),
]
Batch = tuple[Tensor, Tensor]
Run = Callable[[nn.Module, Batch], None]


def forward_and_backward(model: nn.Module, batch: Batch) -> None:
    """The similarity's gradient by the pixels and the words' embeddings; parameters are frozen."""
    image, words = batch[0].clone().requires_grad_(), []
    hook = model.token_embedding.register_forward_hook(lambda m, args, out: words.append(out.requires_grad_()))
    score = similarity()(model(image, batch[1])).sum()
    hook.remove()
    torch.autograd.grad(score, [image, words[0]])


def explain_all(model: nn.Module, batch: Batch, methods: list[tuple[str, dict[str, Any]]] = METHODS) -> None:
    with record(model, adapter_for(model)) as recording:
        model(*batch)
    target = similarity()
    for method, options in methods:
        explain_tape(recording.tape, method, target, **options)


def explain_one_by_one(model: nn.Module, batch: Batch) -> None:
    for image, text in zip(*batch, strict=True):
        explain_all(model, (image[None], text[None]))


def explain_one_with_each(model: nn.Module, batch: Batch) -> None:
    """The first sample, every method with passes of its own: what sharing a tape saves as well."""
    for method, options in METHODS:
        explain(model, (batch[0][:1], batch[1][:1]), method, similarity(), **options)


def build(name: str, size: int, device: str) -> tuple[nn.Module, Batch]:
    """CLIP with random weights and a batch for it; no text has padding."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights
    torch.manual_seed(0)
    model = open_clip.create_model(name, device=device).eval().requires_grad_(False)
    side = model.visual.image_size
    side = side if isinstance(side, tuple) else (side, side)
    text = torch.randint(1, 40000, (size, model.context_length), device=device)
    text[:, -1] = 49407
    return model, (torch.randn(size, 3, *side, device=device), text)


def seconds(run: Run, model: nn.Module, batch: Batch) -> float:
    start = time.perf_counter()
    run(model, batch)
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(run: Run, name: str, size: int, device: str) -> float:
    """By how many MB memory rises at most, in a process of its own; on the CPU looked at every 2 ms."""
    model, batch = build(name, size, device)
    run(model, (batch[0][:1], batch[1][:1]))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run(model, batch)
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    process, done = psutil.Process(), threading.Event()
    start = highest = process.memory_info().rss
    thread = threading.Thread(target=lambda: (run(model, batch), done.set()))
    thread.start()
    while not done.wait(0.002) and thread.is_alive():
        highest = max(highest, process.memory_info().rss)
    return (highest - start) / 2**20


def cases_of(alone: bool) -> dict[str, Run]:
    cases: dict[str, Run] = {
        "forward and backward to the input": forward_and_backward,
        f"{len(METHODS)} explainers together": explain_all,
        "the same one by one": explain_one_by_one,
        "one sample, method by method": explain_one_with_each,
    }
    if not alone:
        return cases
    for method, options in METHODS:
        name = " ".join([method, *(f"{key}={value}" for key, value in options.items())])
        cases[name] = partial(explain_all, methods=[(method, options)])
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="also each method alone, with its passes of the model")
    options = parser.parse_args()
    cases = cases_of(options.alone)
    model, batch = build(options.model, options.batch, options.device)
    for run in cases.values():
        run(model, (batch[0][:1], batch[1][:1]))
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):  # in turn, so that all see the same machine
        for name, run in cases.items():
            found[name].append(seconds(run, model, batch))
    base, together, singly, one = (min(runs) for runs in list(found.values())[:4])
    print(
        f"{options.model}, batch {options.batch}, {options.device}, {torch.get_num_threads()} threads; peak above the model"
    )
    del model
    for name, run in cases.items():
        with get_context("spawn").Pool(1) as pool:
            memory = pool.apply(peak, (run, options.model, options.batch, options.device))
        print(f"{name:36s} {min(found[name]):8.3f} s {min(found[name]) / base:6.2f} x {memory:8.0f} MB")
    print(f"all explainers / forward and backward: {together / base:.2f} x (target at most 1.5)")
    print(f"one by one / batched: {singly / together:.2f} x (target at least 3)")
    print(f"one by one and method by method / batched: {one * options.batch / together:.2f} x")


if __name__ == "__main__":
    main()
