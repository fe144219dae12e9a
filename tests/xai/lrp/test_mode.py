"""Strict: every operation on the way has its rule, whatever it is called; the forward pass and gradients are the model's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import RecordingError, adapter_for, record
from xai.lrp.mode import PropagationError
from xai.lrp.positive import TRANSATT
from xai.lrp.propagation import Propagation
from xai.lrp.relevances import relevances
from xai.lrp.ruling import Ruling

from ..conftest import build
from ..toys import adapter_of, blocks, model_of, snapshot, x
from .streams import adapter, inputs, recorded_pass, sent_back, target, two_streams

A = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
B = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plus_equals(a: Tensor, b: Tensor) -> Tensor:
    a = a * 1
    a += b
    return a


ALIASES: dict[str, list[Callable[[Tensor, Tensor], Tensor]]] = {
    "add": [
        *(lambda a, b: a + b, torch.add, Tensor.add, lambda a, b: b.__radd__(a), lambda a, b: (a * 1).add_(b)),
        *(plus_equals, lambda a, b: torch.add(input=a, other=b), lambda a, b: a.add(b / 2, alpha=2)),
    ],
    "softmax": [
        *(lambda a, b: F.softmax(a, dim=-1), lambda a, b: a.softmax(-1), lambda a, b: torch.softmax(a, dim=-1)),
        *(lambda a, b: nn.Softmax(-1)(a), lambda a, b: torch.special.softmax(a, -1)),
    ],
    "matmul": [lambda a, b: a @ b.mT, lambda a, b: torch.bmm(a, b.mT), lambda a, b: a.matmul(b.transpose(1, 2))],
    "mul": [lambda a, b: a * 2, lambda a, b: 2 * a, lambda a, b: torch.mul(a, 2), lambda a, b: (a * 1).mul_(2)],
    "relu": [F.relu, lambda a, b: F.relu(a, inplace=True), lambda a, b: a.relu(), lambda a, b: (a * 1).relu_()],
}
ALIASES["relu"][0] = lambda a, b: F.relu(a)


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, forms in ALIASES.items() for i in range(1, len(forms))])
def test_aliases(name: str, i: int) -> None:
    first, other = ALIASES[name][0], ALIASES[name][i]
    back = torch.randn(first(A, B).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, _ = sent_back(TRANSATT, first, back, A, B)
    found, _ = sent_back(TRANSATT, other, back, A, B)
    torch.testing.assert_close(other(A.clone(), B), first(A, B))
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_what_is_changed_in_place_is_not_read_under_its_old_name() -> None:
    def run(a: Tensor, b: Tensor) -> Tensor:
        old = a * 1
        old.add_(b)
        return old * 2

    with pytest.raises(PropagationError, match="changed it in place"):
        sent_back(TRANSATT, run, A, A, B)


def written(h: Tensor) -> Tensor:
    h = h.clone()
    h[0] = 1
    return h


class Foreign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *backs: Tensor) -> Tensor:
        return 2 * backs[0]


UNRULED: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda h: h.cumsum(-1),
    "einsum": lambda h: torch.einsum("bij,bkj->bik", h, h) @ h,
    "mul": lambda h: h * h.sigmoid(),
    "mul with a length": lambda h: h * h.norm(dim=-1, keepdim=True),
    "mul of one projection": lambda h: (y := F.linear(h, torch.eye(8))) * y.sigmoid(),
    "addmm": lambda h: torch.addmm(h[0], h[0], torch.ones(8, 8), alpha=2) + h,
    "sub": lambda h: h - h.flip(-1).mean(-1, keepdim=True),
    "rdiv": lambda h: 1 / h,
    "batch_norm": lambda h: F.batch_norm(h, torch.zeros(5), torch.ones(5)),
    "fill": lambda h: (h * 1).fill_(1) + h,
    "setitem": written,
    "matmul": lambda h: torch.eye(5) @ h,
    "conv1d": lambda h: F.conv1d(h, torch.ones(5, 5, 1)),
    "conv2d": lambda h: F.conv2d(h[:, None], torch.ones(1, 1, 1, 1), padding="same")[:, 0],
    "topk": lambda h: h.topk(2).values,
    "mul of a function's own": lambda h: Foreign.apply(h) * 3,  # which no mode sees
    "index_add": lambda h: h.index_add(1, torch.tensor([0, 0]), h[:, :2]),
}


@pytest.mark.parametrize("name", UNRULED)
def test_an_operation_without_rule_is_named_with_its_module(name: str) -> None:
    class Middle(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return UNRULED[name](h)

    first, middle = blocks().blocks[0], Middle()
    model = model_of(lambda h: middle(h + first(h)), first=first, middle=middle).eval()
    with (
        pytest.raises(PropagationError, match=f"^{name.partition(' ')[0]} in module 'middle'"),
        record(model, adapter_of("first"), "tokens"),
    ):
        model(x())
    with record(model, adapter_of("first")):  # only relevance needs a rule
        model(x())
    assert not torch.overrides._get_current_function_mode_stack()


def test_queries_need_no_rule() -> None:
    def run(a: Tensor) -> Tensor:
        assert a.dim() == 3 and a.shape[0] == len(a) and a.isfinite().all() and not a.is_cuda
        return a * float(a.detach().max() > -9)

    (found,), _ = sent_back(TRANSATT, run, B, A)
    torch.testing.assert_close(found, B)


@pytest.mark.parametrize("kind", ["sdpa", "plain", "mha"])
def test_the_pass_and_its_gradients_are_the_models(kind: str) -> None:
    model = two_streams(kind)
    before, recording = snapshot(model), recorded_pass(model, kind)
    assert snapshot(model) == before
    torch.testing.assert_close(recording.output, model(**inputs()))
    with record(model, adapter(kind)) as recorder:
        model(**inputs())
    relevances(recording, target(), TRANSATT)
    gradients, expected = recording.gradients(target()), recorder.recording.gradients(target())
    for event, other in zip(recording.events, recorder.recording.events, strict=True):
        assert expected[other].A.any()
        torch.testing.assert_close(gradients[event].A, expected[other].A)
        torch.testing.assert_close(gradients[event].Y, expected[other].Y)


def test_ways_to_write_attention_agree() -> None:
    model, plain = two_streams("sdpa"), two_streams("plain")
    one, other = (relevances(recorded_pass(m), target(), TRANSATT) for m in (model, plain))
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-6, atol=1e-9)


def test_without_gradients_around() -> None:
    model, goal = two_streams(), target()
    expected = relevances(recorded_pass(model), goal, TRANSATT).tokens
    for around in (torch.no_grad(), torch.inference_mode()):
        with around:
            torch.testing.assert_close(relevances(recorded_pass(model), goal, TRANSATT).tokens, expected)


def test_activations_in_plain_code_are_one_operation() -> None:
    import open_clip.transformer

    gelu = open_clip.transformer.QuickGELU()
    propagation, live = Propagation(), A.clone().requires_grad_()
    ruling = Ruling(propagation, "blocks")
    hooks = list(ruling.hooks(gelu))
    with ruling:
        y = gelu(live)
    for handle in hooks:
        handle.remove()
    with propagation.by(TRANSATT):
        torch.testing.assert_close(torch.autograd.grad(y, live, B, retain_graph=True)[0], B)
    plain = A.clone().requires_grad_()
    alone = Ruling(Propagation(TRANSATT), "blocks")
    hooks = list(alone.hooks(gelu))
    with alone:
        ((inside, _),) = [node for node in gelu(live).grad_fn.next_functions if node[0] is not None]
    for handle in hooks:
        handle.remove()
    assert inside.variable is live  # and nothing of what it is made of
    torch.testing.assert_close(
        torch.autograd.grad(y, live, B)[0], torch.autograd.grad(plain * (1.702 * plain).sigmoid(), plain, B)[0]
    )


def test_a_tape_without_rules_is_refused() -> None:
    model = two_streams()
    with record(model, adapter()) as recorder:
        model(**inputs())
    with pytest.raises(ValueError, match="lrp='tokens'"):
        relevances(recorder.recording, target(), TRANSATT)


def test_pixels_need_one_input_of_images() -> None:
    family = build("bert")
    with (
        pytest.raises(RecordingError, match="one input of images"),
        record(family.model, adapter_for(family.model), "pixels"),
    ):
        family.model(**family.inputs)


def test_from_pixels_only_through_patches() -> None:
    family = build("detr")
    with (
        pytest.raises(PropagationError, match=r"in module 'model\.backbone"),
        record(family.model, adapter_for(family.model), "pixels"),
    ):
        family.model(**family.inputs)
