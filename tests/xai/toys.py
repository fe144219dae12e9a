"""Models of a few lines in which everything can be worked out, and their adapter."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import Adapter, Layout, Site
from xai.recording.adapter import at

X: tuple[str, ...] = ("x",)


class Attention(nn.Module):
    """One head, in the way that `kind` says."""

    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        self.kind, self.qkv, self.dropout = kind, nn.Linear(8, 24), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t[:, None] for t in self.qkv(x).chunk(3, dim=-1))
        if self.kind == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 * self.training)[:, 0]
        scores = q @ k.mT * 8**-0.5
        softmaxes: dict[str, Callable[[], Tensor]] = {
            "F.softmax": lambda: F.softmax(scores, dim=-1),
            "torch.softmax": lambda: torch.softmax(scores, -1),
            "method": lambda: scores.softmax(-1),
            "module": lambda: nn.Softmax(-1)(scores),
            "exp": lambda: scores.exp() / scores.exp().sum(-1, keepdim=True),
            "twice": lambda: scores.softmax(-1) + 0 * scores.softmax(-1),
        }
        return (self.dropout(softmaxes[self.kind]()) @ v)[:, 0]


class Blocks(nn.Module):
    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(kind) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.frozen:
                with torch.no_grad():
                    x = x + block(x)
            else:
                x = x + block(x)
        return self.head(x[:, 0])


class Wrapped(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor], modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def model_of(run: Callable[[Tensor], Tensor], **modules: nn.Module) -> Wrapped:
    return Wrapped(run, modules)


def adapter_of(*names: str) -> Adapter:
    def layout(inputs: Any, sizes: Any) -> Layout:
        return Layout({"x": sizes[X]}, {"x": at(0, sizes[X])}, {})

    return Adapter(tuple((Site(name, X, X, name, name),) for name in names), layout)


TWO = adapter_of("blocks.0", "blocks.1")


def blocks(kind: str = "sdpa") -> Blocks:
    torch.manual_seed(0)
    return Blocks(kind).eval()


def x() -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def snapshot(model: nn.Module) -> list[Any]:
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    return [
        [(dict(a), dict(b)) for a, b in hooks],
        flags,
        [m.training for m in model.modules()],
        torch.get_rng_state().tolist(),
    ]
