"""TransAtt's relevance of a small transformer, carried back by hand, step by step and sample by sample."""

import torch
from torch import Tensor, nn

from xai import Adapter, Layout, Site, explain_recording, given, record
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.adapter import at

WIDTH, HEADS, TOKENS = 4, 2, 3
SIZE = WIDTH // HEADS


class Small(nn.Module):
    """One pre-norm block with written-out attention, and a head on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.forward_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.output = Attention(), nn.Linear(WIDTH, WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.output(self.attention(self.norm(x)))
        x = x + self.down(self.up(self.forward_norm(x)).relu())
        return self.head(x[:, 0])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        A = (q @ k.transpose(2, 3) / SIZE**0.5).softmax(dim=-1)
        return (A @ v).transpose(1, 2).flatten(2)


def by_linear(R: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
    """Eq. 4, one row of x at a time."""
    back = torch.zeros_like(x)
    for row in range(len(x)):
        for j in range(len(linear.weight)):
            parts = (x[row] * linear.weight[j]).clamp(min=0)
            back[row] += R[row, j] * parts / (parts.sum() + 1e-9)
    return back


def by_add(R: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 6 and the unnumbered equations after eq. 9."""
    to_a, to_b = a * R / (a + b + 1e-9), b * R / (a + b + 1e-9)
    size_a, size_b = to_a.sum().abs(), to_b.sum().abs()
    weight_a, weight_b = (size / (size_a + size_b) * R.sum() for size in (size_a, size_b))
    return to_a * weight_a / to_a.sum(), to_b * weight_b / to_b.sum()


def by_product(R: Tensor, P: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    S = R / (P @ V + 1e-9)
    return P * (S @ V.T) / 2, V * (P.T @ S) / 2


def by_hand(model: Small, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Relevance of attention [H, T, T] and of the tokens [T] of one sample x [T, D]."""
    normed = model.norm(x)
    q, k, v = (linear(normed) for linear in (model.attention.q, model.attention.k, model.attention.v))
    heads = [slice(h * SIZE, (h + 1) * SIZE) for h in range(HEADS)]
    A = [(q[:, h] @ k[:, h].T / SIZE**0.5).softmax(-1) for h in heads]
    mixed = torch.cat([A[i] @ v[:, h] for i, h in enumerate(heads)], dim=1)
    attended = model.output(mixed)
    middle = x + attended
    inner = model.up(model.forward_norm(middle))
    added = model.down(inner.relu())

    R = torch.zeros(TOKENS, WIDTH, dtype=x.dtype)
    R[:1] = by_linear(torch.eye(2, dtype=x.dtype)[label][None], (middle + added)[:1], model.head)
    to_middle, to_added = by_add(R, middle, added)
    to_inner = by_linear(to_added, inner.relu(), model.down)
    to_middle = to_middle + by_linear(to_inner, model.forward_norm(middle), model.up)
    to_x, to_attended = by_add(to_middle, x, attended)
    to_mixed = by_linear(to_attended, mixed, model.output)
    of_attention, to_qkv = [], [torch.zeros_like(q) for _ in range(3)]
    for i, h in enumerate(heads):
        to_A, to_v = by_product(to_mixed[:, h], A[i], v[:, h])
        to_q, to_k = by_product(to_A, q[:, h], k[:, h].T)
        of_attention.append(to_A)
        for whole, part in zip(to_qkv, (to_q, to_k.T, to_v), strict=True):
            whole[:, h] = part
    linears = (model.attention.q, model.attention.k, model.attention.v)
    to_normed = sum(by_linear(part, normed, linear) for part, linear in zip(to_qkv, linears, strict=True))
    return torch.stack(of_attention), (to_x + to_normed).sum(dim=1)


def test_transatt_by_hand() -> None:
    torch.manual_seed(0)
    model = Small().double().eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    stream = ("x",)
    site = Site("attention", stream, stream, "norm", "output")
    adapter = Adapter(((site,),), lambda inputs, sizes: Layout({"x": TOKENS}, {"x": at(0, TOKENS)}, {}))
    with record(model, adapter, lrp="tokens") as recorder:
        model(x)
    recording, target = recorder.recording, given(torch.tensor([1, 0]))
    found, (event,) = relevances(recording, target, TRANSATT), recording.events
    scores = explain_recording(recording, "transatt", target).scores["x"]
    for sample, label in enumerate((1, 0)):
        of_attention, of_tokens = by_hand(model, x[sample], label)
        torch.testing.assert_close(found.A[event][sample], of_attention, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.tokens[sample], of_tokens, rtol=1e-6, atol=1e-9)
        change = (recording.gradients(target)[event].A[sample] * of_attention).clamp(min=0).mean(0)
        torch.testing.assert_close(scores[sample], (torch.eye(TOKENS) + change)[0], rtol=1e-6, atol=1e-9)
