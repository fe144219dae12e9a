"""How long relevance propagation takes, in units of one forward pass and one backward pass to the input.

python benchmarks/lrp.py [--batch 16] [--rounds 3] [--device cpu]

On a CPU it counts the seconds of the process, so that others on the machine matter little.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from xai import adapter_for, explain, given, record

METHODS = ("genatt", "transatt", "cp_lrp", "attn_lrp")


def forward_backward(model: nn.Module, pixels: Tensor) -> None:
    """One pass each way, to the pixels, through the frozen model as it is."""
    pixels = pixels.clone().requires_grad_()
    torch.autograd.grad(model(pixels).logits[:, 0].sum(), pixels)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(patch_size=32, num_labels=1000)).to(device).eval().requires_grad_(False)
    pixels = torch.randn(options.batch, 3, 224, 224, device=device)
    runs: dict[str, Callable[[], object]] = {"forward + backward": lambda: forward_backward(model, pixels)}
    for method in METHODS:
        runs[method] = lambda method=method: explain(model, pixels, method, given(0))  # type: ignore[misc]
    runs["recording with rules"] = lambda: recorded(model, pixels)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):  # in turn, so that all see the same machine; the first round warms up
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    unit = min(times["forward + backward"][1:])
    print(f"ViT-B/32, batch {options.batch}, float32, {device.type}, {torch.get_num_threads()} threads")
    for name, found in times.items():
        print(f"{name:20s} {min(found[1:]):8.3f} s {min(found[1:]) / unit:6.2f} x")


def recorded(model: nn.Module, pixels: Tensor) -> None:
    with record(model, adapter_for(model), lrp="tokens"):
        model(pixels)


if __name__ == "__main__":
    main()
