"""Greedy captions with cached keys and values against reading every prefix again, of mappers over ViT-B-32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.entry import Entry, gain
from benchmarks.machine import DEVICE
from benchmarks.timing import in_turn
from clipmapper.config import ModelConfig
from clipmapper.models.clip import SHAPES_CLIP
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
    return [_at(model, batch, tokens=3 if quick else 20, rounds=1 if quick or batch == 64 else 3) for batch in batches]


def _at(model: CLIPMapper, batch: int, tokens: int, rounds: int) -> Entry:
    grid = model.clip.grid
    image = torch.randn(batch, 1 + grid[0] * grid[1], model.clip.image_width).to(DEVICE)
    written: dict[str, list[list[int]]] = {}

    def write(name: str, writer: Callable[..., Writer]) -> None:
        written[name] = captions(model, image, writer, tokens)

    runs = {"cached": lambda: write("cached", Writing), "anew": lambda: write("anew", Reencoding)}
    times = in_turn(runs, rounds, warm=batch == 1)
    note = "same tokens" if written["cached"] == written["anew"] else "OTHER tokens"
    what = f"mapper {model.config.mapper}, batch {batch}: {tokens} tokens, cached / every prefix anew"
    return gain(what, times, "cached", "anew", 5, note=note)


@torch.no_grad()
def captions(model: CLIPMapper, image: Tensor, writer: Callable[..., Writer], tokens: int) -> list[list[int]]:
    """Tokens of a batch; no caption ends before it has as many as asked for."""
    first = torch.full((len(image),), model.start, device=DEVICE)
    return one_by_one(writer(model, image), first, end=-1, length=tokens, choose=greedy).tokens
