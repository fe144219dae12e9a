"""The optimizer of every task, and its learning rate by step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import muon
from torch import Tensor, nn

from clipmapper.config import OptimizerConfig

TURNED = {"mapper", "layers", "layer", "multi_modal_projector"}  # a mapper, and as transformers calls what is of layers
ORTHOGONALISED = muon.zeropower_via_newtonschulz


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
    """timm's, which turns matrices in bfloat16, but on a CPU in float32: few CPUs are fast in bfloat16."""

    def step(self, closure: Any = None) -> Any:
        muon.zeropower_via_newtonschulz = turned  # type: ignore[assignment]  # timm looks it up there and has no option for it
        try:
            return super().step(closure)
        finally:
            muon.zeropower_via_newtonschulz = ORTHOGONALISED


def turned(update: Tensor, *args: Any, **options: Any) -> Tensor:
    """timm's orthogonalisation of a matrix, in the type that its device is fast in."""
    dtype = torch.float32 if update.device.type == "cpu" else torch.bfloat16
    return ORTHOGONALISED(update, *args, **options | {"dtype": dtype}).to(update.dtype)


def rate(step: int, config: OptimizerConfig, total: float) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, cosine to 0 at step `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step < config.decay_from or total <= config.decay_from:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.decay_from) / (total - config.decay_from))))
