"""Explainers against one forward and backward pass to the input: all of one pass together, and each alone.

Together on CLIP ViT-B-32, both towers; alone, every method but the random one, on a ViT-B/32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.entry import Entry, cost
from benchmarks.models import clip, forward_backward, vit
from benchmarks.timing import Run, in_turn
from clipmapper.models.clip import SHAPES_CLIP
from xai import adapter_for, explain, explain_recording, given, record, similarity
from xai.explanation import METHODS

TOGETHER: list[tuple[str, dict[str, Any]]] = [  # one backward pass serves them all
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
PASSES: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": 4}, "smoothgrad": {"samples": 4}}
RUNS = 16  # of methods that take tokens away
Batch = tuple[Tensor, Tensor]


def run(quick: bool) -> list[Entry]:
    model, batch = clip(SHAPES_CLIP if quick else "ViT-B-32", 2 if quick else 8)
    runs: dict[str, Run] = {
        "both passes": lambda: both_passes(model, batch),
        "together": lambda: explain_all(model, batch),
    }
    times = in_turn(runs, 1 if quick else 3)
    what = f"{len(TOGETHER)} explainers of one pass together / forward + backward, CLIP"
    return [cost(what, times, "together", "both passes", 1.5), *_alone(quick)]


def both_passes(model: Any, batch: Batch) -> None:
    """The similarity's gradient by the pixels and the words' embeddings; parameters are frozen."""
    image, words = batch[0].clone().requires_grad_(), []
    hook = model.token_embedding.register_forward_hook(lambda m, args, out: words.append(out.requires_grad_()))
    score = similarity()(model(image, batch[1])).sum()
    hook.remove()
    torch.autograd.grad(score, [image, words[0]])


def explain_all(model: nn.Module, batch: Batch) -> None:
    with record(model, adapter_for(model)) as recorder:
        model(*batch)
    target = similarity()
    for method, options in TOGETHER:
        explain_recording(recorder.recording, method, target, **options)


def _alone(quick: bool) -> list[Entry]:
    model, pixels = vit(quick, batch=2)
    # One needs no model; pairs and MM-SHAP are of two modalities; those without a count run the model for each of 196 patches.
    needless = {"random", "mm_shap"}
    methods = [
        name
        for name, known in METHODS.items()
        if name not in needless and known.pairs is None and not known.models and (known.counted or not known.removes)
    ]
    runs: dict[str, Run] = {"both passes": lambda: forward_backward(model, pixels)}
    for name in methods:
        runs[name] = lambda name=name: explain(model, pixels, name, given(0), **_few(name))  # type: ignore[misc]
    times = in_turn(runs, 1 if quick else 3)
    return [cost(f"{name} / forward + backward, ViT", times, name, "both passes", note=_kind(name)) for name in methods]


def _few(method: str) -> dict[str, Any]:
    return {"budget": RUNS} if METHODS[method].removes else PASSES.get(method, {})


def _kind(method: str) -> str:
    if METHODS[method].removes:
        return f"{RUNS} runs without some patches"
    if METHODS[method].passes == "many":
        return "4 further passes each way"
    return "recorded with rules" if METHODS[method].needs().lrp else ""
