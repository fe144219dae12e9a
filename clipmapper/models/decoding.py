"""The choice of the words of a caption: greedily, by beam search, or drawn from the nucleus.

Captions are written in batches and end at different steps. One that has ended is filled with end tokens, which count nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipmapper.config import DecodingConfig
from clipmapper.models.incremental import Writing

if TYPE_CHECKING:
    from clipmapper.models.clip_mapper import CLIPMapper


class Writer(Protocol):
    """Captions under way: takes their next tokens, gives the logits of those after."""

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]: ...

    def select(self, rows: Int[Tensor, " R"]) -> None: ...


@dataclass(frozen=True)
class Written:
    """Tokens of each caption without start and end, and its log-probability [B], the end token's included."""

    tokens: list[list[int]]
    log_probability: Float[Tensor, " B"]


Choose = Callable[[Float[Tensor, "B V"]], Int[Tensor, " B"]]  # log-probabilities to tokens


def greedy(log_probability: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """The likeliest tokens."""
    return log_probability.argmax(dim=1)


def nucleus(top_p: float, temperature: float, generator: torch.Generator) -> Choose:
    """Draws from the fewest tokens that together have probability `top_p` (Holtzman et al. 2020)."""

    def draw(log_probability: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        sharp = (log_probability / temperature).softmax(dim=1)
        values, order = sharp.sort(dim=1, descending=True)
        values[values.cumsum(dim=1) - values >= top_p] = 0
        place = torch.multinomial(values.cpu(), 1, generator=generator).to(order.device)
        return order.gather(1, place)[:, 0]

    return draw


def one_by_one(writer: Writer, first: Int[Tensor, " B"], end: int, length: int, choose: Choose) -> Written:
    """Captions whose tokens are chosen one after the other, from the start tokens `first`.

    Captions that have ended leave the writer's batch. `choose` sees them all the same, so that what it draws for one caption
    does not depend on when others end.
    """
    written = first.new_full((len(first), length), end)
    total = torch.zeros(len(first), device=first.device)
    rows, tokens = torch.arange(len(first), device=first.device), first  # of the captions that go on
    for place in range(length):
        log_probability = writer.step(tokens).float().log_softmax(dim=1)
        everyone = log_probability
        if len(rows) < len(first):
            nobody = log_probability.new_zeros(len(first), log_probability.shape[1])
            everyone = nobody.index_copy_(0, rows, log_probability)
        tokens = choose(everyone)[rows]
        written[rows, place] = tokens
        total[rows] += log_probability.gather(1, tokens[:, None])[:, 0]
        places = (tokens != end).nonzero()[:, 0]
        if len(places) < len(rows):
            rows, tokens = rows[places], tokens[places]
            if not len(rows):
                break
            writer.select(places)
    return Written(until(written, end), total)


def beam_search(writer: Writer, first: Int[Tensor, " B"], end: int, length: int, beams: int) -> Written:
    """The likeliest caption found by keeping the `beams` likeliest beginnings, B captions at once."""
    log_probability = writer.step(first).float().log_softmax(dim=1)
    batch, vocabulary = log_probability.shape
    beams = min(beams, vocabulary)
    total, tokens = log_probability.topk(beams)  # [B, K], the best first
    offset = torch.arange(batch, device=first.device)[:, None]
    writer.select(offset.expand(batch, beams).flatten())
    written, ended = tokens[..., None], tokens == end
    rest = torch.full((vocabulary,), -torch.inf, device=first.device).index_fill(
        0, torch.tensor(end, device=first.device), 0.0
    )
    for _ in range(length - 1):
        if ended[:, 0].all():  # nothing can overtake the best: totals only fall
            break
        log_probability = writer.step(tokens.flatten()).float().log_softmax(dim=1).view(batch, beams, vocabulary)
        log_probability = torch.where(ended[..., None], rest, log_probability)
        total, place = (total[..., None] + log_probability).flatten(1).topk(beams)
        parent, tokens = place // vocabulary, place % vocabulary
        writer.select((beams * offset + parent).flatten())
        before = written.gather(1, parent[..., None].expand(-1, -1, written.shape[2]))
        written = torch.cat([before, tokens[..., None]], dim=2)
        ended = ended.gather(1, parent) | (tokens == end)
    return Written(until(written[:, 0], end), total[:, 0])


def until(tokens: Int[Tensor, "B N"], end: int) -> list[list[int]]:
    """Each row up to its first end token."""
    return [row[: row.index(end)] if end in row else row for row in tokens.tolist()]


@torch.no_grad()
def write(model: "CLIPMapper", image_tokens: Float[Tensor, "B I image_width"], config: DecodingConfig) -> Written:
    """Captions of a batch of images, from CLIP's image tokens. Tokens are numbered as the head's logits."""
    first = image_tokens.new_full((len(image_tokens),), model.start, dtype=torch.long)
    length = most_tokens(model, config)
    writing = Writing(model, image_tokens)
    if config.method == "beam":
        return beam_search(writing, first, model.end, length, config.beams)
    drawn = nucleus(config.top_p, config.temperature, torch.Generator().manual_seed(config.seed))
    return one_by_one(writing, first, model.end, length, greedy if config.method == "greedy" else drawn)


def most_tokens(model: "CLIPMapper", config: DecodingConfig) -> int:
    """Returns how many tokens a caption has at most; one of so many has not ended by itself."""
    return min(config.length, model.clip.model.context_length - 1)


def captions(model: "CLIPMapper", image_tokens: Float[Tensor, "B I image_width"], config: DecodingConfig) -> list[str]:
    """Captions of a batch of images as text."""
    return [model.text_of(tokens) for tokens in write(model, image_tokens, config).tokens]


def tidy(text: str) -> str:
    """BPE's text without the blanks it puts before punctuation."""
    return re.sub(r" ([.,;:!?')])", r"\1", " ".join(text.split()))
