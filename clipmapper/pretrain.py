"""Makes the small CLIP that ships with the package: `python -m clipmapper.pretrain --output weights.safetensors`.

Four contrastive losses on Shapes scenes, rendered before training and held on the device:
- attributes: each patch against a phrase for every value of an attribute ("a circle", "a square", ..., "the background");
- phrases: a patch against phrases such as "a small red circle at the top left" of the whole batch, without those that are
  true of it as well;
- captions: the image against captions that name every object, of part of the batch;
- details: the image and captions of the other kinds (counts, relations, comparisons) against a wrong caption of the same
  kind, a hard negative (as in NegCLIP, Yuksekgonul et al. 2023).
"""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module(__spec__.name)

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from clipmapper.data.shapes.captions import KINDS
from clipmapper.data.shapes.materials import (
    ATTRIBUTES,
    DRAWS,
    NOTHING,
    OPEN,
    VALUES,
    Materials,
    fits,
    prepare,
    value_ids,
)
from clipmapper.models.clip import SHAPES_CLIP, create_clip, image_tokens, text_tokens
from clipmapper.training.optimizer import parameter_groups
from xai.files import replacing

WEIGHTS = (1.0, 1.0, 3.0, 1.0)  # of the attributes: shape is the hardest to see


class Pretraining(pl.LightningModule):
    """The three losses over materials that live on the device; a batch is a tensor of scene indices."""

    images: Tensor
    patches: Tensor
    full: Tensor
    details: Tensor
    phrases: Tensor
    codes: Tensor
    values: Tensor

    def __init__(self, model: Any, materials: Materials, lr: float, steps: int) -> None:
        super().__init__()
        self.model: Any = model
        self.lr, self.steps = lr, steps
        self.names = [field.name for field in fields(materials)]
        for name in self.names:
            self.register_buffer(name, getattr(materials, name), persistent=False)
        self.register_buffer("values", value_ids(), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        """Class token and patches, projected to the joint space and normalised, [B, 1 + patches, E]."""
        mean, std = (torch.tensor(self.model.visual.preprocess_cfg[k], device=images.device) for k in ("mean", "std"))
        pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
        return F.normalize(image_tokens(self.model, pixels) @ self.model.visual.proj, dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """End token of each text, projected and normalised, [N, E]."""
        ids = ids.reshape(-1, ids.shape[-1]).long()
        ends = ids.argmax(-1)
        tokens = text_tokens(self.model, ids[:, : ends.max() + 1])[torch.arange(len(ids), device=ids.device), ends]
        return F.normalize(tokens @ self.model.text_projection, dim=-1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        draw = torch.randint(DRAWS, (2,), device=batch.device)
        features = self.image_features(augment(self.images[batch].float()))
        patches, found = features[:, 1:], self.patches[batch].long()
        phrases, wanted = self.phrases[batch, draw[0]], self.codes[batch, draw[0]]
        some = batch[: len(batch) // 8]  # image-level losses need more text, so they get fewer images
        whole = features[: len(some), 0]
        kinds = torch.randint(len(KINDS) - 1, some.shape, device=batch.device)
        losses = {
            "attributes": self._attributes(patches, found),
            "phrases": self._phrases(patches, found, phrases, wanted),
            "captions": self._captions(whole, self.full[some, draw[1]]),
            "details": self._details(whole, self.details[some, draw[1], kinds][:, None]),
        }
        self.log_dict(losses, prog_bar=True)
        return losses["attributes"] + losses["phrases"] + 0.5 * losses["captions"] + 0.5 * losses["details"]

    def _scale(self) -> Tensor:
        return self.model.logit_scale.exp().clamp(max=100)

    def value_features(self) -> list[Tensor]:
        """For each attribute the features of its values' phrases, and of the background's, [values + 1, E]."""
        features = self.text_features(self.values)
        return list(features.split([len(values) + 1 for values in VALUES]))

    def _attributes(self, patches: Tensor, codes: Tensor) -> Tensor:
        weight = torch.where(codes[..., 0] == NOTHING, 0.1, 1.0).flatten()  # most patches show background
        loss = patches.new_zeros(())
        for k, names in enumerate(self.value_features()):
            target = torch.where(codes[..., k] == NOTHING, len(VALUES[k]), codes[..., k]).flatten()
            each = F.cross_entropy(self._scale() * (patches @ names.T).flatten(0, 1), target, reduction="none")
            loss = loss + WEIGHTS[k] * (each * weight).sum() / weight.sum()
        return loss

    def _phrases(self, patches: Tensor, codes: Tensor, phrases: Tensor, wanted: Tensor) -> Tensor:
        fitting = ((codes == wanted[:, None]) | (wanted[:, None] == OPEN)).all(-1) & (codes[..., 0] != NOTHING)
        there = fitting.any(1)
        rows = torch.arange(len(patches), device=patches.device)
        chosen = torch.where(fitting, torch.rand(fitting.shape, device=fitting.device), -1.0).argmax(1)
        logits = self._scale() * patches[rows, chosen] @ self.text_features(phrases).T
        also = fits(codes[rows, chosen][:, None], wanted)[:, 0] & (rows[:, None] != rows)
        return F.cross_entropy(logits.masked_fill(also, -torch.inf)[there], rows[there])

    def _captions(self, whole: Tensor, ids: Tensor) -> Tensor:
        logits = self._scale() * whole @ self.text_features(ids).T
        target = torch.arange(len(whole), device=whole.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _details(self, whole: Tensor, ids: Tensor) -> Tensor:
        differs = (ids[:, :, 0] != ids[:, :, 1]).any(-1)
        return (F.softplus(-self._scale() * self._margins(whole, ids)) * differs).sum() / differs.sum().clamp(min=1)

    def _margins(self, whole: Tensor, ids: Tensor) -> Tensor:
        """Returns by how much each image is nearer to the true caption of each kind, [B, kinds]."""
        texts = self.text_features(ids).view(*ids.shape[:-1], -1)
        return torch.einsum("be,bke->bk", whole, texts[:, :, 0] - texts[:, :, 1])

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Share of true captions preferred to wrong ones, by kind, and of patches named right by phrase."""
        features = self.image_features(self.images[batch].float())
        margins = self._margins(features[:, 0], self.details[batch, 0])
        differs = (self.details[batch, 0][:, :, 0] != self.details[batch, 0][:, :, 1]).any(-1)
        for k, kind in enumerate(KINDS[1:]):
            self.log(f"val/{kind.__name__}", (margins[:, k] > 0)[differs[:, k]].float().mean(), prog_bar=True)
        logits = features[:, 0] @ self.text_features(self.full[batch, 0]).T
        right = logits.argmax(-1) == torch.arange(len(batch), device=batch.device)
        self.log("val/everything", right.float().mean(), prog_bar=True)
        patches = self.patches[batch].flatten(0, 1)
        there = patches[:, 0] != NOTHING
        for k, names in enumerate(self.value_features()):
            named = (features[:, 1:].flatten(0, 1)[there] @ names[:-1].T).argmax(-1)
            self.log(f"val/patch_{ATTRIBUTES[k]}", (named == patches[there, k]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = parameter_groups(self, lambda _, p: p.ndim >= 2, {"weight_decay": 0.05}, {"weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), eps=1e-6)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, self.steps, pct_start=0.06, cycle_momentum=False, final_div_factor=1e3
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def augment(images: Tensor) -> Tensor:
    """Brightness, contrast, blur and noise of the kinds that cameras and JPEG add, on [B, 3, H, W] in 0..255."""
    shape, device = (len(images), 1, 1, 1), images.device
    images = (
        (images - 128) * (1 + 0.15 * torch.randn(shape, device=device)) + 128 + 8 * torch.randn(shape, device=device)
    )
    side = images.shape[-1]
    smaller = int(torch.randint(side // 2, side, ()))
    small = F.interpolate(F.interpolate(images, smaller, mode="area"), side, mode="bilinear")
    images = torch.where(torch.rand(shape, device=device) < 0.4, small, images)
    return (images + 6 * torch.rand(shape, device=device) * torch.randn_like(images)).clamp(0, 255)


class IndexBatches(IterableDataset):
    """Endless random batches of scene indices, every index once a round."""

    def __init__(self, count: int, batch: int) -> None:
        self.count, self.batch = count, batch

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(self.count)[: self.count // self.batch * self.batch].view(-1, self.batch)


def pretrain(
    output: Path,
    scenes: int = 30_000,
    steps: int = 2600,
    batch: int = 128,
    lr: float = 1.5e-3,
    seed: int = 0,
    workers: int = 2,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    val_scenes: int = 1000,
) -> None:
    """Pretrains the Shapes CLIP and writes its weights in half precision.

    Args:
        output: safetensors file to write.
        scenes: number of scenes rendered for training.
        steps: optimiser steps.
        batch: scenes a step.
        lr: highest learning rate.
        seed: of scenes, weights and order.
        workers: processes that render.
        precision: Lightning's.
        val_scenes: scenes for the figures printed at the end.
    """
    pl.seed_everything(seed)
    torch.set_float32_matmul_precision("high")
    model = create_clip(SHAPES_CLIP, None)
    materials = prepare(scenes + val_scenes, seed, model.visual.image_size[0], model.visual.grid_size[0], workers)
    module = Pretraining(model, materials, lr, steps)

    def save(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        figures = {name: round(float(v), 3) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
        print(f"step {trainer.global_step}: {figures}", flush=True)
        state = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
        settings = {"scenes": scenes, "steps": trainer.global_step, "of": steps, "batch": batch, "lr": lr, "seed": seed}
        with replacing(output) as temporary:
            save_file(state, temporary, metadata={name: str(value) for name, value in settings.items()})

    trainer = pl.Trainer(
        max_steps=steps,
        precision=precision,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        val_check_interval=max(steps // 10, 1),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        devices=1,
        callbacks=[LambdaCallback(on_validation_end=save)],
    )
    validation = torch.arange(scenes, scenes + val_scenes).split(500)
    trainer.fit(
        module, DataLoader(IndexBatches(scenes, batch), batch_size=None), DataLoader(validation, batch_size=None)
    )
    print(f"wrote {output} ({output.stat().st_size / 2**20:.1f} MB)")


def main() -> None:
    """Command line."""
    auto_cli(pretrain, as_positional=False)
