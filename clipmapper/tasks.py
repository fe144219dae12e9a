"""What is trained: the VQA task as a LightningModule."""

import math
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from clipmapper.config import ModelConfig, OptimizerConfig
from clipmapper.data.vqa import Batch
from clipmapper.heads import soft_label_loss
from clipmapper.metrics import VQAAccuracy
from clipmapper.model import CLIPMapper

FORMAT = 1  # of the "clipmapper" entry in checkpoints


class VQATask(pl.LightningModule):
    """Soft-label classification of answers. Checkpoints hold the mapper, not CLIP, and what is needed to build both."""

    def __init__(self, model: CLIPMapper, optimizer: OptimizerConfig, seed: int, extra: dict[str, Any]) -> None:
        """`extra`: plain values put into checkpoints, such as the data configuration."""
        super().__init__()
        self.model, self.config, self.seed, self.extra = model, optimizer, seed, extra
        self.accuracy, self.val_loss = VQAAccuracy(), MeanMetric()  # exact also where processes have unequal shares
        self.strict_loading = False  # CLIP's weights are not in checkpoints

    def logits(self, batch: Batch) -> Tensor:
        """Answer logits [B, answers]."""
        image = batch["image"]
        tokens = image if image.ndim == 3 else self.model.clip.image_tokens(image)
        return self.model(tokens, batch["ids"], batch["mask"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends on seed and step alone, so that a resumed run goes on exactly as if never interrupted.
        torch.manual_seed(hash((self.seed, self.global_step, batch_idx, self.global_rank)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = soft_label_loss(self.logits(batch), batch["scores"])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.global_step}: lower --optimizer.lr or set "
                "--trainer.gradient_clip_val; the last checkpoint is from before"
            )
        self.log("train/loss", loss, prog_bar=True)
        skipped = batch["skipped"].float()
        self.log("train/skipped", skipped, on_step=False, on_epoch=True, reduce_fx="sum", batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.logits(batch)
        self.val_loss.update(soft_label_loss(logits, batch["scores"]), len(logits))
        self.log("val/skipped", batch["skipped"].float(), reduce_fx="sum", batch_size=len(logits), sync_dist=True)
        self.accuracy.update(logits, batch["scores"], batch["answer_type"])

    def on_validation_epoch_end(self) -> None:
        accuracy, loss = self.accuracy.compute(), self.val_loss.compute()
        self.accuracy.reset()
        self.val_loss.reset()
        self.log("val/loss", loss, sync_dist=True)
        self.log("val/accuracy", accuracy.pop("overall"), prog_bar=True, sync_dist=True)
        self.log_dict({f"val/accuracy/{name}": value for name, value in accuracy.items()}, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Rows [B] and labels [B] of the likeliest answers."""
        return batch["row"], self.logits(batch).argmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.config.lr, betas=self.config.betas)
        total = self.trainer.estimated_stepping_batches  # infinite if only the time is limited
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, self.config, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"model.{k}": v for k, v in self.model.trained_state().items()}
        checkpoint["clipmapper"] = {
            "format": FORMAT,
            "model": asdict(self.model.config),
            "answers": self.model.answers,
            "clip_fingerprint": self.model.clip.fingerprint,
            "extra": self.extra,
        }


def rate(step: int, config: OptimizerConfig, total: float) -> float:
    """Share of the learning rate at a step: linear warm-up, constant, cosine to 0 at step `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step < config.decay_from or total <= config.decay_from:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.decay_from) / (total - config.decay_from))))


def check_checkpoint(checkpoint: dict[str, Any], model: CLIPMapper, source: str) -> None:
    """Raises ValueError, naming the field, unless the checkpoint is of this model with these answers over this CLIP."""
    saved = described(checkpoint, source)
    own, theirs = asdict(model.config), saved["model"]
    for name in own:
        if name not in ("dropout", "pretrained") and own[name] != theirs.get(name):
            raise ValueError(f"{source}: model.{name} is {theirs.get(name)!r} there and {own[name]!r} here")
    if saved["answers"] != model.answers:
        raise ValueError(
            f"{source} knows {len(saved['answers'])} answers, this run's data has {len(model.answers)} or others: "
            "use the data or the data.vocabulary it was trained with"
        )
    model.check_clip(saved["clip_fingerprint"], source)


def described(checkpoint: dict[str, Any], source: str) -> dict[str, Any]:
    """The checkpoint's own description of its model. Raises ValueError if it is of something else."""
    saved = checkpoint.get("clipmapper")
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{source} is not a checkpoint of CLIPmapper (format {FORMAT})")
    return saved


def model_from_checkpoint(checkpoint: dict[str, Any], source: str) -> CLIPMapper:
    """The trained model, in eval mode. Raises ValueError naming `source` if it does not fit together."""
    saved = described(checkpoint, source)
    model = CLIPMapper(ModelConfig(**saved["model"]), saved["answers"])
    model.check_clip(saved["clip_fingerprint"], source)
    state = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    model.load_trained_state(state, source)
    return model.eval()
