import pytest
import torch
from torch import Tensor, nn

from xai.metrics.sanity import noisy_output, randomisation, rank_correlation


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high, self.aside = nn.Linear(12, 12), nn.Linear(12, 1), nn.Linear(12, 12)
        self.high.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.low(x).tanh())[:, 0]


X = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def gradient_of(model: Two) -> Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0] * x


def test_an_explanation_that_ignores_the_model_does_not_change() -> None:
    model = Two()
    found = randomisation(model, lambda draw: X, [["high"], ["low"]])
    assert found.shape == (2, 5) and torch.allclose(found, torch.ones(2, 5).double())


def test_an_explanation_of_the_model_does_once_its_parameters_are_shuffled() -> None:
    model = Two()
    found = randomisation(model, lambda draw: gradient_of(model), [["aside"], ["high", "low"]])
    assert torch.allclose(found[0], torch.ones(5).double())
    assert found[1].mean().abs() < 0.5


def test_groups_add_up_from_the_first_on() -> None:
    model = Two()
    alone = randomisation(model, lambda draw: gradient_of(model), [["high"]])
    added = randomisation(model, lambda draw: gradient_of(model), [["high"], ["aside"]])
    assert torch.equal(added[0], alone[0]) and torch.equal(added[1], alone[0])


def test_groups_alone_do_not_add_up() -> None:
    model = Two()
    explain = lambda draw: gradient_of(model)  # noqa: E731
    apart = randomisation(model, explain, [["high", "low"], ["aside"]], cascade=False)
    assert apart[0].mean().abs() < 0.5
    assert torch.allclose(apart[1], torch.ones(5).double()), "the first group is back before the second is shuffled"


def test_methods_share_what_one_draw_costs() -> None:
    model, calls = Two(), []

    def both(draw: int) -> Tensor:
        calls.append(draw)
        return torch.stack([gradient_of(model), X])

    found = randomisation(model, both, [["high", "low"]], draws=3)
    alone = randomisation(model, lambda draw: gradient_of(model), [["high", "low"]], draws=3)
    assert found.shape == (1, 2, 5) and calls == [0, 1, 2, 0, 1, 2]
    assert torch.equal(found[0, 0], alone[0]) and torch.allclose(found[0, 1], torch.ones(5).double())


def test_the_model_is_as_before_even_after_an_exception() -> None:
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def explain(draw: int) -> Tensor:
        calls.append(draw)
        if len(calls) > 3:
            raise RuntimeError("out of memory")
        return gradient_of(model)

    with pytest.raises(RuntimeError, match="out of memory"):
        randomisation(model, explain, [["high"], ["low"]], draws=2)
    assert calls == [0, 1, 0, 1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True, True, True]


def test_smoothing_takes_out_the_noise_of_single_maps() -> None:
    def noisy(draw: int) -> Tensor:
        noise = next(streams)
        return X + 2 * torch.randn(5, 12, generator=torch.Generator().manual_seed(noise))

    streams = iter(range(1000))
    single = randomisation(Two(), noisy, [["low"]], draws=1)
    smooth = randomisation(Two(), noisy, [["low"]], draws=100)
    assert single.mean() < 0.65 < 0.8 < smooth.mean()


def test_padding_does_not_correlate() -> None:
    valid = torch.tensor([[True] * 4 + [False] * 8] * 5)
    padded = X.masked_fill(~valid, 0)
    found = randomisation(Two(), lambda draw: padded, [["low"]], valid=valid)
    assert torch.allclose(found, torch.ones(1, 5).double())
    reversed_ = rank_correlation(padded, -padded, valid)
    assert torch.allclose(reversed_, -torch.ones(5).double())


def test_undefined_correlations() -> None:
    everything = torch.ones(2, 3, dtype=torch.bool)
    a, b = torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 2.0]]), torch.tensor([[1.0, 2.0, 3.0]] * 2)
    assert rank_correlation(a, b, everything).isnan().all()


def test_noise_on_a_modules_output_is_scaled_seeded_and_gone_afterwards() -> None:
    module, x = nn.Identity(), torch.stack([torch.linspace(0, 1, 3000), torch.linspace(0, 10, 3000)])
    with noisy_output(module, level=0.2, seed=4):
        first, second = module(x), module(x)
    with noisy_output(module, level=0.2, seed=5):
        other = module(x)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert (first - x).std(dim=1).tolist() == pytest.approx([0.2, 2.0], rel=0.05)
    assert torch.equal(module(x), x)
