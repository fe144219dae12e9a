"""Captions explained word by word, from one recorded pass and one batched backward pass, against an explanation for each word.

Both begin at the pixels. The loop runs the whole model on the caption up to each word; both give the same maps.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.entry import Entry, gain
from benchmarks.machine import DEVICE
from benchmarks.models import pixels_for
from benchmarks.timing import in_turn
from clipmapper.config import ModelConfig
from clipmapper.explain.captions import record_steps, steps_of
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from xai import explain_recording
from xai.explainers.registry import method_named

METHODS = ("raw_attention", "genatt")


def run(quick: bool) -> list[Entry]:
    batch, length = (2, 3) if quick else (8, 8)
    rounds = {SHAPES_CLIP: 1} if quick else {SHAPES_CLIP: 3, "ViT-B-32": 1}
    return [_of(model_of(clip), batch, length, name, some) for clip, some in rounds.items() for name in METHODS]


def model_of(clip: str) -> CLIPMapper:
    """A captioner over a CLIP of random weights."""
    torch.manual_seed(0)
    model: Any = CLIPMapper(ModelConfig(clip=clip, pretrained=None, mapper="b", task="caption"))
    return model.eval().requires_grad_(False).to(DEVICE)


def _of(model: CLIPMapper, batch: int, length: int, method: str, rounds: int) -> Entry:
    pixels = pixels_for(model.clip.model, batch)
    captions = torch.randint(len(model.token_ids), (batch, length)).tolist()
    scores: dict[str, Tensor] = {}

    def together() -> None:
        scores["together"] = image_scores(model, pixels, captions, method)

    def one_by_one() -> None:
        parts = [
            image_scores(model, pixels[i : i + 1], [caption[: end + 1]], method)[-1:]
            for i, caption in enumerate(captions)
            for end in range(length)
        ]
        scores["alone"] = torch.cat(parts)

    times = in_turn({"together": together, "alone": one_by_one}, rounds)
    what = f"{method}, {model.config.clip}: {batch} captions of {length} tokens, together / an explanation a token"
    apart = (scores["together"] - scores["alone"]).abs().max() / scores["alone"].abs().max()
    return gain(what, times, "together", "alone", 8, extra={"largest difference": float(apart)})


def image_scores(model: CLIPMapper, pixels: Tensor, captions: list[list[int]], method: str) -> Tensor:
    """Scores of the patches for each token of the captions, [tokens, patches]."""
    steps = steps_of(model, captions)
    recording = record_steps(model, pixels, steps, method_named(method).needs())
    return explain_recording(recording, method, steps.target).scores["image"]
