"""Relevance propagation in units of one forward pass and one backward pass to the input, ViT-B/32."""

from benchmarks.entry import Entry, cost
from benchmarks.models import forward_backward, vit
from benchmarks.timing import Run, in_turn
from xai import adapter_for, explain, given, record

MOST = {"transatt": 3.2, "attn_lrp": 1.5, "cp_lrp": 1.5}


def run(quick: bool) -> list[Entry]:
    model, pixels = vit(quick, batch=2 if quick else 8)

    def recorded() -> None:
        with record(model, adapter_for(model), lrp="tokens"):
            model(pixels)

    runs: dict[str, Run] = {"both passes": lambda: forward_backward(model, pixels), "recording": recorded}
    for name in MOST:
        runs[name] = lambda name=name: explain(model, pixels, name, given(0))  # type: ignore[misc]
    times = in_turn(runs, 1 if quick else 3)
    found = [cost(f"{name} / forward + backward", times, name, "both passes", most) for name, most in MOST.items()]
    return [*found, cost("recording with rules / forward + backward", times, "recording", "both passes")]
