"""Every rule against a formula written out with loops over single entries."""

from collections.abc import Callable, Iterator
from itertools import product as places
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xai import PropagationError
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.positive import TRANSATT
from xai.lrp.propagation import Propagation, Rules
from xai.lrp.ruling import Ruling

from .streams import sent_back

EPS = 1e-9


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def entries(x: Tensor) -> Iterator[tuple[int, ...]]:
    return places(*map(range, x.shape))


def close(ours: Tensor | None, expected: Tensor) -> None:
    assert ours is not None and expected.abs().max() > 0.01
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)


def relevance(rules: Rules, run: Callable[..., Tensor], R: Tensor, *operands: Tensor, **options: Any) -> list[Tensor]:
    """Relevance of the operands for the relevance R of the result, whatever the rules send back."""
    y = run(*operands)
    found, _ = sent_back(rules, run, R / y if rules.modified_gradient else R, *operands, **options)
    shown = [torch.zeros_like(x) if back is None else back for x, back in zip(operands, found, strict=True)]
    return [x * back if rules.modified_gradient else back for x, back in zip(operands, shown, strict=True)]


X, W, BIAS, R = normal(2, 3, 4), normal(5, 4), normal(5), normal(2, 3, 5)
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, W, BIAS),
    "by keyword": lambda x: F.linear(input=x, weight=W, bias=BIAS),
}


@pytest.mark.parametrize("form", LINEAR)
def test_positive_linear(form: str) -> None:
    expected = torch.zeros_like(X)
    for b, t, j in entries(R):
        parts = [max(float(X[b, t, i] * W[j, i]), 0.0) for i in range(4)]
        for i in range(4):
            expected[b, t, i] += R[b, t, j] * parts[i] / (sum(parts) + EPS)
    close(relevance(TRANSATT, LINEAR[form], R, X)[0], expected)


def test_a_constant_matrix_on_the_right_is_a_linear_layer() -> None:
    close(relevance(TRANSATT, lambda x: x @ W.T, R, X)[0], relevance(TRANSATT, LINEAR["linear"], R, X)[0])


def test_linear_without_positive_part_gets_nothing() -> None:
    x, weight = torch.ones(1, 2, dtype=torch.float64), torch.tensor([[-1.0, -2.0], [1.0, 3.0]], dtype=torch.float64)
    ours = relevance(TRANSATT, lambda x: F.linear(x, weight), torch.tensor([[5.0, 8.0]]).double(), x)[0]
    torch.testing.assert_close(ours, torch.tensor([[2.0, 6.0]]).double())


def test_epsilon_linear() -> None:
    y = F.linear(X, W, BIAS)
    expected = torch.zeros_like(X)
    for b, t, j in entries(R):
        for i in range(4):
            expected[b, t, i] += X[b, t, i] * W[j, i] * R[b, t, j] / y[b, t, j]
    for rules in (ATTN_LRP, CP_LRP):
        close(relevance(rules, LINEAR["linear"], R, X)[0], expected)


@pytest.mark.parametrize("bias", [BIAS, None])
def test_gamma_linear(bias: Tensor | None) -> None:
    gamma, y = 0.3, F.linear(X, W, bias)
    expected = torch.zeros_like(X)
    for b, t, j in entries(R):
        parts = [float(X[b, t, i] * W[j, i]) for i in range(4)] + [0.0 if bias is None else float(bias[j])]
        weighed = [part * (1 + gamma) if (part > 0) == (y[b, t, j] > 0) else part for part in parts]
        for i in range(4):
            expected[b, t, i] += R[b, t, j] * weighed[i] / sum(weighed)
    close(relevance(with_gamma(CP_LRP, gamma), lambda x: F.linear(x, W, bias), R, X)[0], expected)


P, V, RM = normal(2, 2, 3, 4), normal(2, 2, 4, 5), normal(2, 2, 3, 5)


def shares_of_a_product(rules_eps: float) -> tuple[Tensor, Tensor]:
    y, to_p, to_v = P @ V, torch.zeros_like(P), torch.zeros_like(V)
    for b, h, i, j in entries(RM):
        for k in range(4):
            part = P[b, h, i, k] * V[b, h, k, j] * RM[b, h, i, j] / (y[b, h, i, j] + rules_eps) / 2
            to_p[b, h, i, k] += part
            to_v[b, h, k, j] += part
    return to_p, to_v


@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
def test_product(rules: Rules) -> None:
    expected = shares_of_a_product(0 if rules.modified_gradient else EPS)
    for run in (torch.matmul, lambda p, v: p @ v):
        for ours, wanted in zip(relevance(rules, run, RM, P, V), expected, strict=True):
            close(ours, wanted)


def test_attention_is_a_constant_of_cp_lrp() -> None:
    S = normal(2, 2, 3, 4)
    (to_scores, to_values), y = relevance(CP_LRP, lambda s, v: s.softmax(-1) @ v, RM, S, V), S.softmax(-1) @ V
    expected = torch.zeros_like(V)
    for b, h, i, j in entries(RM):
        for k in range(4):
            expected[b, h, k, j] += S.softmax(-1)[b, h, i, k] * V[b, h, k, j] * RM[b, h, i, j] / y[b, h, i, j]
    close(to_values, expected)
    assert not to_scores.any()


A, B, RA = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)


def test_sum_of_two() -> None:
    expected = [torch.zeros_like(A), torch.zeros_like(B)]
    for sample in range(2):
        raw = [torch.zeros(3, 4).double(), torch.zeros(3, 4).double()]
        for t, d in places(range(3), range(4)):
            a, b, r = float(A[sample, t, d]), float(B[sample, t, d]), float(RA[sample, t, d])
            raw[0][t, d], raw[1][t, d] = a * r / (a + b + EPS), b * r / (a + b + EPS)
        size = sum(abs(float(part.sum())) for part in raw)
        for side in range(2):
            wanted = abs(float(raw[side].sum())) / size * float(RA[sample].sum())
            expected[side][sample] = raw[side] * wanted / float(raw[side].sum())
    for ours, wanted_map in zip(relevance(TRANSATT, torch.add, RA, A, B), expected, strict=True):
        torch.testing.assert_close(ours, wanted_map, rtol=1e-7, atol=1e-8)


def test_epsilon_sum() -> None:
    for ours, x in zip(relevance(ATTN_LRP, torch.add, RA, A, B), (A, B), strict=True):
        close(ours, x / (A + B) * RA)


@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
@pytest.mark.parametrize(("name", "axes"), [("sum", 1), ("mean", 1), ("mean", (1, 2)), ("sum", -1)])
def test_sum_over_axes(rules: Rules, name: str, axes: Any) -> None:
    run = lambda x: getattr(x, name)(axes)  # noqa: E731
    total = A.sum(axes, keepdim=True)
    share = RA.sum(axes)
    close(relevance(rules, run, share, A)[0], A / total * share.reshape(total.shape))


def test_softmax_of_attn_lrp() -> None:
    s = A.softmax(-1)
    expected = torch.zeros_like(A)
    for b, t, i in entries(A):
        expected[b, t, i] = A[b, t, i] * (RA[b, t, i] - s[b, t, i] * RA[b, t].sum())
    close(relevance(ATTN_LRP, lambda x: x.softmax(-1), RA, A)[0], expected)


def test_norm_with_a_constant_spread() -> None:
    weight, bias = normal(4), normal(4, seed=3)
    y, expected = F.layer_norm(A, (4,), weight, bias, 0.1), torch.zeros_like(A)
    for b, t, j in entries(A):
        spread = float((A[b, t].var(correction=0) + 0.1).sqrt())
        for i in range(4):
            slope = weight[j] * ((1 if i == j else 0) - 0.25) / spread
            expected[b, t, i] += A[b, t, i] * slope * RA[b, t, j] / y[b, t, j]
    close(relevance(CP_LRP, lambda x: F.layer_norm(x, (4,), weight, bias, 0.1), RA, A)[0], expected)


def test_rms_norm_with_a_constant_spread() -> None:
    close(relevance(CP_LRP, lambda x: F.rms_norm(x, (4,), eps=0.1), RA, A)[0], RA)


UNCHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "scale": lambda x: x * -3,
    "divide": lambda x: x / 7,
    "layer scale": lambda x: x * torch.arange(1, 5),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "by a length": lambda x: x / x.norm(p=2, dim=-1, keepdim=True),
    "by a norm": lambda x: x / x.square().sum(-1, keepdim=True).sqrt(),
}


@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
@pytest.mark.parametrize("name", list(UNCHANGED))
def test_unchanged(rules: Rules, name: str) -> None:
    close(relevance(rules, UNCHANGED[name], RA, A)[0], RA)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "mask"])
def test_unchanged_by_transatt(name: str) -> None:
    run: Any = {
        "softmax": lambda x: x.softmax(-1),
        "layer_norm": lambda x: F.layer_norm(x, (4,)),
        "mask": lambda x: x + torch.full((4,), -2.0),
    }[name]
    close(relevance(TRANSATT, run, RA, A)[0], RA)


def test_product_of_entries_in_a_target() -> None:
    for rules in (TRANSATT, ATTN_LRP):
        for ours in relevance(rules, torch.mul, RA, A, B, stage="target"):
            close(ours, RA / 2)


def test_pixels() -> None:
    x, weight, bias = normal(2, 3, 4, 4), normal(5, 3, 2, 2), normal(5)
    share, expected = normal(2, 5, 2, 2), torch.zeros(2, 3, 4, 4).double()
    for b, o, row, column in entries(share):
        low, high = x[b].min(), x[b].max()
        patch = x[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        up, down = weight[o].clamp(min=0), weight[o].clamp(max=0)
        z = patch * weight[o] - low * up - high * down
        expected[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += z * share[b, o, row, column] / z.sum()
    ours = relevance(TRANSATT, lambda x: F.conv2d(x, weight, bias, stride=2), share, x, stage="pixels")[0]
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.25, 100.0])
@pytest.mark.parametrize("biased", [True, False])
def test_gamma_of_the_pixels(biased: bool, gamma: float) -> None:
    """Contributions of the patch entry's own sign count 1 + gamma times, the bias's too; linear layers keep their rule."""
    x, weight, bias = normal(2, 3, 4, 4), normal(5, 3, 2, 2), normal(5) if biased else None
    share, y, expected = normal(2, 5, 2, 2), F.conv2d(x, weight, bias, stride=2), torch.zeros(2, 3, 4, 4).double()

    def weighed(part: float, whole: float) -> float:
        return part * (1 + gamma) if (part > 0) == (whole > 0) else part

    for b, o, row, column in entries(share):
        whole = float(y[b, o, row, column])
        parts = {
            (c, i, j): weighed(float(x[b, c, 2 * row + i, 2 * column + j] * weight[o, c, i, j]), whole)
            for c, i, j in places(range(3), range(2), range(2))
        }
        total = sum(parts.values()) + (0.0 if bias is None else weighed(float(bias[o]), whole))
        for (c, i, j), part in parts.items():
            expected[b, c, 2 * row + i, 2 * column + j] += part / total * share[b, o, row, column]
    rules = with_gamma(ATTN_LRP, 0, gamma)
    run = lambda x: F.conv2d(x, weight, bias, stride=2)  # noqa: E731
    close(relevance(rules, run, share, x, stage="pixels")[0], expected)
    assert rules.linear is ATTN_LRP.linear and rules.convolution is ATTN_LRP.convolution
    assert with_gamma(ATTN_LRP, 0, 0) == ATTN_LRP


def test_the_position_embedding_takes_its_share() -> None:
    """Between the patches and the first attention; its part of the relevance is gone."""
    position = normal(3, 4)
    y = A + position
    parts = (A / y * RA, position / y * RA)
    totals = [part.sum((1, 2), keepdim=True) for part in parts]
    expected = (
        parts[0] * totals[0].abs() / (totals[0].abs() + totals[1].abs()) * RA.sum((1, 2), keepdim=True) / totals[0]
    )
    ours = relevance(TRANSATT, lambda x: x + position, RA, A, stage="embedding")[0]
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)
    close(relevance(TRANSATT, lambda x: x + position, RA, A, stage="blocks")[0], RA)


def test_a_norm_in_plain_code_is_a_norm() -> None:
    """RMSNorm as T5, Llama and their like write it."""
    plain = lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)  # noqa: E731
    torch.testing.assert_close(plain(A), F.rms_norm(A, (4,), eps=0.1))
    for rules in (TRANSATT, ATTN_LRP, CP_LRP):
        close(relevance(rules, plain, RA, A)[0], relevance(rules, lambda x: F.rms_norm(x, (4,), eps=0.1), RA, A)[0])


def test_a_centred_norm_in_plain_code_is_layer_norm() -> None:
    """As Cohere writes it; what a mean of other entries is taken from has no rule."""

    def plain(x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 0.1)

    torch.testing.assert_close(plain(A), F.layer_norm(A, (4,), eps=0.1))
    for rules in (TRANSATT, ATTN_LRP, CP_LRP):
        close(relevance(rules, plain, RA, A)[0], relevance(rules, lambda x: F.layer_norm(x, (4,), eps=0.1), RA, A)[0])
    with pytest.raises(PropagationError, match="sub in the blocks"):
        relevance(ATTN_LRP, lambda x: x - x.flip(-1).mean(-1, keepdim=True), RA, A)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
def test_a_convolution_is_a_linear_layer_at_each_place(rules: Rules, groups: int) -> None:
    x, bias, share = normal(2, 3, 4, 5), normal(6), normal(2, 6, 2, 3)
    weight = normal(6, 3 // groups, 3, 3)
    whole = torch.zeros(6, 3, 3, 3).double()  # zeros between the groups of a depthwise one
    for out in range(6):
        whole[out, slice(None) if groups == 1 else slice(out // 2, out // 2 + 1)] = weight[out]
    options: dict[str, Any] = {"stride": 2, "padding": 1}
    patches = F.unfold(x, 3, **options).mT
    parts = relevance(rules, lambda p: F.linear(p, whole.flatten(1), bias), share.flatten(2).mT, patches)[0]
    expected = F.fold(parts.mT, x.shape[2:], 3, **options)
    close(relevance(rules, lambda x: F.conv2d(x, weight, bias, groups=groups, **options), share, x)[0], expected)


def mixture(x: Tensor, router: Tensor, experts: Tensor, form: str) -> Tensor:
    """Two experts of three for each token [T, D]."""
    weights, chosen = F.linear(x, router).softmax(-1).topk(2)
    weights /= weights.sum(-1, keepdim=True)
    if form != "written out":
        order = chosen.flatten().argsort(stable=True)
        ends = F.one_hot(chosen.flatten(), 3).sum(0).cumsum(0).int()
        rows = x[order // 2]
        if form == "by torch":  # in single precision at most
            rows = F.grouped_mm(rows.float(), experts.mT.float(), offs=ends).double()
        else:
            rows = torch.ops.transformers.grouped_mm_fallback(rows, experts.mT, ends)
        return (rows * weights.flatten()[order][:, None])[order.argsort()].view(len(x), 2, -1).sum(dim=1)
    y = torch.zeros(len(x), experts.shape[1], dtype=x.dtype)
    for expert in range(3):
        token, place = torch.where(chosen == expert)
        y.index_add_(0, token, F.linear(x[token], experts[expert]) * weights[token, place, None])
    return y


@pytest.mark.parametrize("form", ["written out", "by transformers", "by torch"])
def test_the_weights_of_a_mixtures_experts_are_constants(form: str) -> None:
    """Mixtral: as it writes its experts, and by products of groups of rows."""
    import transformers.integrations.moe  # noqa: F401  (it registers the product)

    x, router, experts, share = normal(5, 4), normal(3, 4), normal(3, 8, 4), normal(5, 8)
    weights, chosen = F.linear(x, router).softmax(-1).topk(2)
    weights = weights / weights.sum(-1, keepdim=True)
    y = mixture(x, router, experts, form)
    expected = torch.zeros_like(x)
    for token, place in places(range(5), range(2)):
        own = experts[chosen[token, place]]
        for out, into in places(range(8), range(4)):
            part = weights[token, place] * own[out, into] * x[token, into]
            expected[token, into] += part / y[token, out] * share[token, out]
    run = lambda x: mixture(x, router, experts, form)  # noqa: E731
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if form == "by torch" else {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(relevance(ATTN_LRP, run, share, x)[0], expected, **tolerance)
    positive = lambda x: mixture(x, router, experts.abs(), form)  # noqa: E731
    kept = relevance(TRANSATT, positive, share.abs(), x.abs())[0].sum()
    torch.testing.assert_close(kept, share.abs().sum(), rtol=1e-5, atol=0)
    x.requires_grad_()
    (true,) = torch.autograd.grad(run(x), x, share)
    with Ruling(Propagation(), "blocks"):
        (through,) = torch.autograd.grad(run(x), x, share)  # of the router, too
    torch.testing.assert_close(through, true)


@pytest.mark.parametrize("form", ["two", "halves of one"])
@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
def test_gated_products_share_equally(form: str, rules: Rules) -> None:
    """SwiGLU: what comes to the product goes in halves to gate and projection, and on from there as everywhere."""
    weights = normal(5, 4), normal(5, 4, seed=6)

    def run(x: Tensor) -> Tensor:
        if form == "two":
            return F.silu(F.linear(x, weights[0])) * F.linear(x, weights[1])
        gate, value = F.linear(x, torch.cat(weights)).chunk(2, dim=-1)
        return F.silu(gate) * value

    share = normal(2, 3, 5, seed=7)
    parts = [relevance(rules, lambda x, w=w: F.linear(x, w), share / 2, A)[0] for w in weights]
    torch.testing.assert_close(relevance(rules, run, share, A)[0], parts[0] + parts[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP, with_gamma(CP_LRP, 0.3)], ids=lambda rules: rules.name)
def test_learned_queries_are_weights_of_the_keys(rules: Rules) -> None:
    """A stack of constants on either side of a product is a linear layer in each sample and head."""
    query, keys, share = normal(2, 2, 3, 5), V, normal(2, 2, 3, 4)
    ours = relevance(rules, lambda k: query @ k.mT, share, keys)[0]
    other = relevance(rules, lambda k: k @ query.mT, share.mT, keys)[0]
    expected = torch.zeros_like(keys)
    for b, h in places(range(2), range(2)):
        one = lambda k, b=b, h=h: F.linear(k, query[b, h])  # noqa: E731
        expected[b, h] = relevance(rules, one, share[b : b + 1, h].mT, keys[b : b + 1, h])[0][0]
    close(ours, expected)
    close(other, expected)


@pytest.mark.parametrize("rules", [TRANSATT, ATTN_LRP], ids=lambda rules: rules.name)
@pytest.mark.parametrize("equation", ["bhwc,hkc->bhwk", "bhwc,wkc->bhwk", "wkc,bhwc->bkhw"])
def test_a_product_with_constants_of_each_row_is_a_linear_layer(rules: Rules, equation: str) -> None:
    """SAM's relative positions: each row or column of queries has its own vectors."""
    x, out = normal(2, 3, 4, 5), equation.split("->")[1]
    rows = 3 if "hkc" in equation else 4
    weight, share = normal(rows, 6, 5), normal(*[{"b": 2, "h": 3, "w": 4, "k": 6}[letter] for letter in out], seed=5)
    operands = (lambda x: (weight, x)) if equation.startswith("w") else (lambda x: (x, weight))
    ours = relevance(rules, lambda x: torch.einsum(equation, *operands(x)), share, x)[0]
    share, expected = share.permute([out.index(letter) for letter in "bhwk"]), torch.zeros_like(x)
    for row in range(rows):
        at = (slice(None), row) if rows == 3 else (slice(None), slice(None), row)
        expected[at] = relevance(rules, lambda x, w=weight[row]: F.linear(x, w), share[at], x[at])[0]
    close(ours, expected)


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d])
def test_pooling_to_one_cell_is_the_mean(pool: Any) -> None:
    x = normal(2, 3, 4) if pool is F.adaptive_avg_pool1d else normal(2, 3, 4, 5)
    axes = tuple(range(2, x.dim()))
    share = normal(2, 3, *[1] * len(axes))
    for rules in (TRANSATT, ATTN_LRP):
        wanted = relevance(rules, lambda x: x.mean(dim=axes, keepdim=True), share, x)[0]
        close(relevance(rules, lambda x: pool(x, 1), share, x)[0], wanted)
    with pytest.raises(PropagationError, match="pools to more than one cell"):
        relevance(TRANSATT, lambda x: pool(x, 2), normal(*x.shape[:2], *[2] * len(axes)), x)
