"""The optimizer of every task, and its learning rate by step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import muon
from torch import Tensor, nn

from clipmapper.config import OptimizerConfig

TURNED = {"mapper", "layers", "layer", "multi_modal_projector"}  # a mapper, and as transformers calls what is of layers
# Of each Newton-Schulz iteration x -> a x + b x^3 + c x^5 the factors, those of timm's preset of this name.
# Source: https://leloykun.github.io/ponder/muon-opt-coeffs
QUINTIC = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


def optimizer_and_schedule(model: nn.Module, config: OptimizerConfig, steps: float) -> OptimizerLRScheduler:
    """Returns what LightningModule.configure_optimizers must; `steps` is infinite if only the time is limited."""
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, config, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Over the parameters that want a gradient. Muon turns the matrices of the modules in TURNED; all else is Adam's."""
    if config.name == "adam":
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=config.lr, betas=config.betas)
    groups = parameter_groups(
        model, lambda name, p: p.ndim == 2 and not TURNED.isdisjoint(name.split(".")), {}, {"use_fallback": True}
    )
    return Muon(groups, lr=config.lr, betas=config.betas, nesterov=True)


def parameter_groups(
    model: nn.Module, first: Callable[[str, nn.Parameter], bool], options: dict[str, Any], others: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the parameters that want a gradient in two groups: those that `first` picks with their options, and the rest."""
    trained = [(p, first(name, p)) for name, p in model.named_parameters() if p.requires_grad]
    picked, rest = ([p for p, is_first in trained if is_first is chosen] for chosen in (True, False))
    return [{"params": picked, **options}, {"params": rest, **others}]


class Muon(muon.Muon):
    """timm's, but the matrices of its first group that have one shape are turned together: one alone is too small for two cores.

    On a CPU in float32, as few are fast in bfloat16.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        matrices = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in matrices]
        for shape in sorted({p.shape for p in matrices}):
            self._turn([p for p in matrices if p.shape == shape], group["lr"], group["momentum"])
        for p in matrices:
            p.grad = None
        super().step()  # Adam's, of the other group
        for p, gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient
        return loss

    def _turn(self, matrices: list[Tensor], lr: float, momentum: float) -> None:
        """Moves matrices of one shape by the orthogonalised Nesterov momentum of their gradients."""
        updates = []
        for p in matrices:
            assert p.grad is not None
            mean = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)).lerp_(p.grad, 1 - momentum)
            updates.append(p.grad.lerp(mean, momentum))
        scale = muon.get_lr_scale(matrices[0].shape)
        for p, update in zip(matrices, turned(torch.stack(updates)), strict=True):
            p.add_(update, alpha=-lr * scale)


def turned(updates: Float[Tensor, "N out in"]) -> Float[Tensor, "N out in"]:
    """Returns matrices orthogonalised, in the type that their device is fast in."""
    dtype = torch.float32 if updates.device.type == "cpu" else torch.bfloat16
    return muon.zeropower_via_newtonschulz(updates, len(QUINTIC), QUINTIC, dtype=dtype).to(updates.dtype)


def rate(step: int, config: OptimizerConfig, total: float) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, cosine to 0 at step `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step < config.decay_from or total <= config.decay_from:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.decay_from) / (total - config.decay_from))))
