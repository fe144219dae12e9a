"""A model with all that our own has: two streams, concatenation, slices, cross-attention, and a head of several layers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import Adapter, Layout, Site, Target, given, record
from xai.lrp.propagation import Operation, Propagation, Rules
from xai.lrp.ruling import Ruling
from xai.recording.adapter import at
from xai.recording.recording import Recording

WIDTH = 8


class Attention(nn.Module):
    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        self.kind = kind
        self.query, self.key_value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.output, self.mha = nn.Linear(WIDTH, WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if self.kind == "mha":
            return self.mha(x, context, context, need_weights=False)[0]
        q, k, v = (
            t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (self.query(x), *self.key_value(context).chunk(2, -1))
        )
        if self.kind == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q * (WIDTH // 2) ** -0.5 @ k.mT).softmax(-1) @ v
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention(kind)
        self.forward_norm = nn.LayerNorm(WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed if context is None else context)
        return x + self.feed_forward(self.forward_norm(x))


class TwoStreams(nn.Module):
    """Each stream attends to itself, then to the other, then both together; the head reads the first image token."""

    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        self.image, self.text = Block(kind), Block(kind)
        self.to_image, self.to_text = Block(kind), Block(kind)
        self.joint = nn.ModuleList([Block(kind)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, 3))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = self.image(image), self.text(text)
        image, text = self.to_image(image, text), self.to_text(text, image)
        x = torch.cat([image, text], dim=1)
        for block in self.joint:
            x = block(x)
        return self.head(x[:, : image.shape[1]][:, 0])


IMAGE, TEXT = ("image",), ("text",)


def adapter(kind: str = "sdpa") -> Adapter:
    def site(name: str, queries: tuple[str, ...], keys: tuple[str, ...]) -> Site:
        module = f"{name}.attention"
        return Site(f"{module}.mha" if kind == "mha" else module, queries, keys, f"{name}.norm", module)

    def layout(inputs: Mapping[str, Any], sizes: Mapping[tuple[str, ...], int]) -> Layout:
        lengths = {"image": inputs["image"].shape[1], "text": inputs["text"].shape[1]}
        return Layout(lengths, {"image": at(0, lengths["image"])}, {})

    both = IMAGE + TEXT
    alone = (site("image", IMAGE, IMAGE), site("text", TEXT, TEXT))
    crossed = (site("to_image", IMAGE, TEXT), site("to_text", TEXT, IMAGE))
    return Adapter((alone, crossed, (site("joint.0", both, both),)), layout)


def two_streams(kind: str = "sdpa") -> TwoStreams:
    torch.manual_seed(0)
    model = TwoStreams(kind).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, text = (torch.randn(2, n, WIDTH, generator=generator, dtype=torch.float64) for n in (4, 3))
    return {"image": image, "text": text}


def recorded_pass(model: nn.Module, kind: str = "sdpa") -> Recording:
    with record(model, adapter(kind), lrp="tokens") as recorder:
        model(**inputs())
    return recorder.recording


def target() -> Target:
    return given(torch.tensor([0, 2]))


def sent_back(
    rules: Rules, run: Callable[..., Tensor], back: Tensor, *operands: Tensor, stage: Any = "blocks"
) -> tuple[list[Tensor | None], list[Operation]]:
    """What the rules send back from the result of `run` to its live operands, and the operations it was.

    A graph of these rules alone sends the same.
    """
    live = [x.detach().clone().requires_grad_() for x in operands]
    ways = []
    for propagation in (Propagation(), Propagation(rules)):
        with Ruling(propagation, stage):
            y = run(*live)
        with propagation.by(rules, audit=propagation.alone is None) as ledger:
            ways.append((torch.autograd.grad(y, live, back, allow_unused=True), ledger))
    (found, ledger), (alone, _) = ways
    for one, other in zip(found, alone, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    return list(found), [operation for operation, _ in ledger]
