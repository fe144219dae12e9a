"""The learning rate by hand, and which optimizer turns which weights."""

import math
from functools import partial

import pytest
import torch
from timm.optim import muon
from torch import nn

from clipmapper.config import OptimizerConfig
from clipmapper.training.optimizer import QUINTIC, Muon, make_optimizer, parameter_groups, rate, turned


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapper, self.head, self.frozen = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1 / 4),
        (1, 2 / 4),
        (3, 1.0),
        (4, 1.0),
        (9, 1.0),
        (10, 1.0),
        (15, 0.5 * (1 + math.cos(math.pi / 4))),
        (20, 0.5),
        (30, 0.0),
        (35, 0.0),
    ],
)
def test_warm_up_plateau_and_cosine(step: int, expected: float) -> None:
    assert rate(step, OptimizerConfig(warmup_steps=4, decay_from=10), total=30) == pytest.approx(expected)


def test_rate_of_short_and_of_endless_runs() -> None:
    config = OptimizerConfig(warmup_steps=0, decay_from=10)
    assert [rate(step, config, total=10) for step in (0, 9)] == [1.0, 1.0]
    assert [rate(step, config, total=math.inf) for step in (0, 10, 10**6)] == [1.0, 1.0, 1.0]


def test_matrices_are_turned_in_float32_on_a_cpu() -> None:
    """With the singular values 3, 2 and 1 all but equal afterwards, to more digits than bfloat16 has."""
    updates = torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ torch.linalg.qr(torch.randn(2, 3, 3))[0]
    found = turned(updates)
    assert found.dtype == torch.float32
    exact = muon.zeropower_via_newtonschulz(updates.double(), 5, QUINTIC, dtype=torch.float64)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_matrices_that_are_turned_together_move_as_by_timm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square, tall and wide ones, over steps in which one has no gradient, then all; and the weights that are Adam's."""
    monkeypatch.setattr(
        muon, "zeropower_via_newtonschulz", partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)
    )
    torch.manual_seed(0)
    shapes = [(4, 4), (8, 4), (4, 4), (4, 8), (8, 4)]
    start, bias = [torch.randn(shape) for shape in shapes], torch.randn(4)
    moved = []
    for kind in (Muon, muon.Muon):
        matrices, other = [nn.Parameter(p.clone()) for p in start], nn.Parameter(bias.clone())
        groups = [{"params": matrices}, {"params": [other], "use_fallback": True}]
        optimizer = kind(groups, lr=0.1, betas=(0.9, 0.98), nesterov=True)
        generator = torch.Generator().manual_seed(1)
        for step in range(3):
            for p in (*matrices, other):
                p.grad = torch.randn(p.shape, generator=generator)
            gradients = [None if step == 0 and p is matrices[2] else p.grad for p in matrices]
            matrices[2].grad = gradients[2]
            optimizer.step()
            assert all(p.grad is gradient for p, gradient in zip(matrices, gradients, strict=True))
        moved.append([p.detach() for p in (*matrices, other)])
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-5)


def test_the_factors_are_those_of_timms_preset() -> None:
    assert muon._COEFFICIENTS["quintic"] == QUINTIC


def test_a_step_returns_the_loss_of_its_closure() -> None:
    model = Small()
    optimizer = make_optimizer(model, OptimizerConfig(name="muon", lr=0.01))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.head(model.mapper(torch.ones(1, 3))).sum()
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert closure().item() < before


def test_every_trained_parameter_is_in_one_of_two_groups() -> None:
    model = Small()
    picked, rest = parameter_groups(model, lambda name, p: p.ndim == 2, {"weight_decay": 1}, {})
    assert picked["weight_decay"] == 1 and "weight_decay" not in rest
    assert [p.ndim for p in picked["params"]] == [2, 2] and [p.ndim for p in rest["params"]] == [1, 1]


def stepped(config: OptimizerConfig) -> dict[str, torch.Tensor]:
    """By how much each weight moves in the first step against a gradient of two singular values, 3 and 1."""
    torch.manual_seed(0)
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, config)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
        p.grad.view(-1)[0] = 3.0
        p.grad.view(-1)[-1] = 1.0
    optimizer.step()
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}


def test_adam_moves_every_trained_weight_by_the_rate() -> None:
    for name, change in stepped(OptimizerConfig(lr=0.01)).items():
        expected = 0.0 if name.startswith("frozen") else 0.01
        assert change.view(-1)[0].item() == pytest.approx(expected, rel=1e-3)


def test_muon_turns_the_mapper_and_leaves_the_rest_to_adam() -> None:
    change = stepped(OptimizerConfig(name="muon", lr=0.01))
    for name in ("head.weight", "mapper.bias"):  # whatever the gradient's size, as Adam does
        assert change[name].view(-1)[0].item() == pytest.approx(change[name].view(-1)[-1].item(), rel=1e-3)
    assert not change["frozen.weight"].any()
    large, small, none = torch.linalg.svdvals(change["mapper.weight"]).tolist()
    assert large / small < 2 and none < 1e-3 * small  # orthogonalised: the gradient's 3 to 1 is gone
