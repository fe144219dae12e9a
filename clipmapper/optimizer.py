"""The optimizer of every task, and its learning rate by step."""

import math
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import Muon
from torch import nn

from clipmapper.config import OptimizerConfig


def optimizer_and_schedule(model: nn.Module, config: OptimizerConfig, steps: float) -> OptimizerLRScheduler:
    """What LightningModule.configure_optimizers returns; `steps` is infinite if only the time is limited."""
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, config, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Over the parameters that want a gradient. Muon turns the matrices of the module `mapper`; all else is Adam's."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if config.name == "adam":
        return torch.optim.Adam(trained.values(), lr=config.lr, betas=config.betas)
    turned = {name: p for name, p in trained.items() if p.ndim == 2 and "mapper" in name.split(".")}
    rest = [p for name, p in trained.items() if name not in turned]
    groups: list[dict[str, Any]] = [{"params": [*turned.values()]}, {"params": rest, "use_fallback": True}]
    return Muon(groups, lr=config.lr, betas=config.betas, nesterov=True)


def rate(step: int, config: OptimizerConfig, total: float) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, cosine to 0 at step `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step < config.decay_from or total <= config.decay_from:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.decay_from) / (total - config.decay_from))))
