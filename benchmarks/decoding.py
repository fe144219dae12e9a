"""Greedy captions with cached keys and values against reading every prefix again, of mappers over ViT-B-32.

No cache saves the products of a new token with all weights: they alone, against every prefix again, are the bound.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.entry import Entry, gain
from benchmarks.machine import DEVICE
from benchmarks.timing import Run, in_turn
from clipmapper.config import ModelConfig
from clipmapper.models.clip import SHAPES_CLIP, text_tower
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import Writer, greedy, one_by_one
from clipmapper.models.incremental import Writing


class Reencoding:
    """Captions under way, of which each step reads the whole beginning anew."""

    def __init__(self, model: CLIPMapper, image_tokens: Tensor) -> None:
        self.model, self.image = model, image_tokens
        self.written = torch.empty(len(image_tokens), 0, dtype=torch.long, device=image_tokens.device)

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[:, None]], dim=1)
        ids = self.model.token_ids[self.written]
        _, text = self.model.states(self.image, ids, torch.ones_like(ids, dtype=torch.bool))
        return self.model.head(text[:, -1])

    def select(self, rows: Tensor) -> None:
        self.image, self.written = self.image[rows], self.written[rows]


def run(quick: bool) -> list[Entry]:
    return [entry for mapper in ("a", "b") for entry in _of(mapper, quick)]


def _of(mapper: str, quick: bool) -> list[Entry]:
    torch.manual_seed(0)
    clip = SHAPES_CLIP if quick else "ViT-B-32"
    config = ModelConfig(clip=clip, pretrained=None, mapper=mapper, task="caption")  # type: ignore[arg-type]
    model: Any = CLIPMapper(config).eval().to(DEVICE)
    batches = (2,) if quick else (1, 16, 64)
    tokens, rounds = (3, 1) if quick else (20, 3)
    return [entry for batch in batches for entry in _at(model, batch, tokens, 1 if batch == 64 else rounds)]


def _at(model: CLIPMapper, batch: int, tokens: int, rounds: int) -> list[Entry]:
    grid = model.clip.grid
    image = torch.randn(batch, 1 + grid[0] * grid[1], model.clip.image_width).to(DEVICE)
    written: dict[str, list[list[int]]] = {}

    def write(name: str, writer: Callable[..., Writer]) -> None:
        written[name] = captions(model, image, writer, tokens)

    read = weights(model)
    rows = {weight.shape[1]: torch.randn(batch, weight.shape[1], device=DEVICE) for weight in read}

    def products() -> None:
        for _ in range(tokens):
            for weight in read:
                F.linear(rows[weight.shape[1]], weight)

    runs: dict[str, Run] = {"cached": lambda: write("cached", Writing), "anew": lambda: write("anew", Reencoding)}
    runs["products"] = torch.no_grad()(products)
    times = in_turn(runs, rounds, warm=batch == 1)
    note = "same tokens" if written["cached"] == written["anew"] else "OTHER tokens"
    what = f"mapper {model.config.mapper}, batch {batch}: {tokens} tokens"
    size = sum(weight.nbytes for weight in read) / 1e9
    speed = {"GB of weights": size, "GB/s": tokens * size / median(times["products"])}
    return [
        gain(f"{what}, cached / every prefix anew", times, "cached", "anew", 5, note=note),
        gain(f"{what}, bound: products of new tokens alone", times, "products", "anew", extra=speed),
    ]


def weights(model: Any) -> list[Tensor]:
    """What each new token is multiplied with, of CLIP's text tower, the mapper's text side and the head."""
    blocks = [getattr(block, "text", block) for block in model.mapper.blocks]
    parts = (text_tower(model.clip.model).transformer, model.text_projection, *blocks, model.head)
    named = [pair for part in parts for pair in part.named_parameters()]
    found = [p for name, p in named if p.dim() == 2 and not name.startswith("cross_attention.key_value")]
    return found if model.head.embedding is None else [*found, model.head.embedding]


@torch.no_grad()
def captions(model: CLIPMapper, image: Tensor, writer: Callable[..., Writer], tokens: int) -> list[list[int]]:
    """Tokens of a batch; no caption ends before it has as many as asked for."""
    first = torch.full((len(image),), model.start, device=DEVICE)
    return one_by_one(writer(model, image), first, end=-1, length=tokens, choose=greedy).tokens
