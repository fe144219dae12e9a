"""Tasks that are trained: answering and captioning as LightningModules."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from clipmapper.config import DecodingConfig, OptimizerConfig
from clipmapper.data.batches import Batch, Encoder, Texts, mixed
from clipmapper.data.captions import CaptionData
from clipmapper.metrics.answers import VQAAccuracy
from clipmapper.metrics.captions import CHEAP, score
from clipmapper.models.checkpoints import FORMAT
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import captions
from clipmapper.models.heads import next_token_loss, soft_label_loss
from clipmapper.processes import all_gathered
from clipmapper.training.optimizer import optimizer_and_schedule

LOOK_EVERY = 50  # batches between looks at whether the loss is still finite: each waits for the device


class Trained(Protocol):
    """A model as training sees it, which is a module too."""

    def trained_state(self) -> dict[str, Tensor]: ...

    def description(self) -> dict[str, Any]: ...


class TrainedTask(pl.LightningModule):
    """The common part of all tasks. Checkpoints hold what is trained, not CLIP, and what is needed to build both.

    `monitor` names the validation figure that the best checkpoint has most of.
    """

    monitor: str
    model: Any

    def __init__(self, model: Trained, optimizer: OptimizerConfig, seed: int, extra: dict[str, Any]) -> None:
        """`extra`: plain values put into checkpoints, such as the data configuration."""
        super().__init__()
        self.model, self.config, self.seed, self.extra = model, optimizer, seed, extra
        self.val_loss = MeanMetric()  # exact also where processes have unequal shares
        self.strict_loading = False  # CLIP's weights are not in checkpoints
        self.diverged = torch.tensor(-1)  # first step without a finite loss, kept where the loss is; -1: none

    def loss(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    @property
    def encoder(self) -> Encoder:
        """What makes tokens of images."""
        raise NotImplementedError

    def examples(self, data: Texts, batch: Batch) -> list[str]:
        """What the model says of each image of a batch, and what is right."""
        raise NotImplementedError

    def image_tokens(self, batch: Batch) -> Tensor:
        """The image tokens [B, I, D] of a batch that has them, or pixels."""
        image = batch["image"]
        return image if image.ndim == 3 else self.encoder.image_tokens(image)

    def on_train_start(self) -> None:
        self.diverged = torch.full((), -1, device=self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends on seed and step alone, so that a resumed run goes on exactly as if never interrupted.
        torch.manual_seed(mixed(self.seed, self.global_step, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        new = ~loss.detach().isfinite() & (self.diverged < 0)
        self.diverged = self.diverged.masked_fill(new, self.global_step)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        skipped = batch["skipped"].float()
        self.log("train/skipped", skipped, on_step=False, on_epoch=True, reduce_fx="sum", batch_size=1, sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (batch_idx + 1) % LOOK_EVERY == 0:
            self.require_finite()

    def require_finite(self) -> None:
        """Raises FloatingPointError if a loss so far, or a weight now, is not finite."""
        step = int(self.diverged)
        if step < 0 and all_finite(self.model.trained_state()):
            return
        what = f"the loss is not finite at step {step}" if step >= 0 else "weights are not finite"
        raise FloatingPointError(
            f"{what}: lower --optimizer.lr or set --trainer.gradient_clip_val; the last checkpoint is from before"
        )

    def log_skipped(self, batch: Batch) -> None:
        """Adds up the validation samples that are left out."""
        count, size = batch["skipped"].float(), len(batch["ids"])
        self.log("val/skipped", count, reduce_fx="sum", batch_size=size, sync_dist=True, add_dataloader_idx=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self.model, self.config, self.trainer.estimated_stepping_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises FloatingPointError rather than replace a good checkpoint by one to throw away."""
        self.require_finite()
        checkpoint["state_dict"] = {f"model.{k}": v for k, v in self.model.trained_state().items()}
        checkpoint["clipmapper"] = {"format": FORMAT, **self.model.description(), "extra": self.extra}

    def log_captions(self, written: list[tuple[int, str]], references: Callable[[int], list[str]]) -> None:
        """Logs how good the captions of a validation are, by row, those of all processes together."""
        captions = dict(pair for part in all_gathered(written) for pair in part)
        right = [references(row) for row in captions]
        for name, value in score(list(captions.values()), right, CHEAP, ptb=False).corpus.items():
            if name in CHEAP:
                figure = value if isinstance(value, float) else math.nan  # checkpoints may be chosen by it all the same
                self.log(f"val/{name}", figure, prog_bar=name == "CIDEr", sync_dist=True)


class MapperTask(TrainedTask):
    """The common part of the mappers' tasks."""

    model: CLIPMapper

    @property
    def encoder(self) -> FrozenCLIP:
        return self.model.clip


class VQATask(MapperTask):
    """Soft-label classification of answers."""

    monitor = "val/accuracy"

    def __init__(self, model: CLIPMapper, optimizer: OptimizerConfig, seed: int, extra: dict[str, Any]) -> None:
        super().__init__(model, optimizer, seed, extra)
        self.accuracy = VQAAccuracy()

    def logits(self, batch: Batch) -> Tensor:
        """Answer logits [B, answers]."""
        return self.model(self.image_tokens(batch), batch["ids"], batch["mask"])

    def loss(self, batch: Batch) -> Tensor:
        return soft_label_loss(self.logits(batch), batch["scores"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.logits(batch)
        self.val_loss.update(soft_label_loss(logits, batch["scores"]), len(logits))
        self.log_skipped(batch)
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

    def examples(self, data: Texts, batch: Batch) -> list[str]:
        """`question answer (right answer)` of each."""
        answers = [self.model.answers[label] for label in self.logits(batch).argmax(dim=1)]
        records = [data.records[row] for row in batch["row"].tolist()]
        return [f"{r['question']} {a} (right: {r['answer']})" for r, a in zip(records, answers, strict=True)]


class CaptionTask(MapperTask):
    """Each word of a caption from the image and the words before it."""

    monitor = "val/CIDEr"

    def __init__(
        self,
        model: CLIPMapper,
        optimizer: OptimizerConfig,
        seed: int,
        extra: dict[str, Any],
        decoding: DecodingConfig | None = None,
    ) -> None:
        """`decoding`: how `predict_step` writes; validation writes greedily."""
        super().__init__(model, optimizer, seed, extra)
        self.decoding = decoding or DecodingConfig()
        self.written: list[tuple[int, str]] = []  # rows and captions of this validation

    def token_loss(self, batch: Batch, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean loss over the tokens that come next, and how many they are; tokens the head lacks are left out."""
        ids, mask, following = batch["ids"], batch["mask"], batch["following"]
        _, text = self.model.states(self.image_tokens(batch), ids[:, :-1], mask[:, :-1])
        targets = self.model.numbers[ids[:, 1:].flatten().index_select(0, following)]
        logits = self.model.head(text.flatten(0, 1).index_select(0, following))
        return next_token_loss(logits, targets, smoothing), (targets >= 0).sum()

    def loss(self, batch: Batch) -> Tensor:
        return self.token_loss(batch, self.config.label_smoothing)[0]

    def captions(self, batch: Batch, decoding: DecodingConfig) -> list[str]:
        return captions(self.model, self.image_tokens(batch), decoding)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The loss of all captions (first loader), captions of some images (second)."""
        if dataloader_idx == 0:
            self.val_loss.update(*self.token_loss(batch))
            self.log_skipped(batch)
        else:
            self.written += zip(batch["row"].tolist(), self.captions(batch, DecodingConfig()), strict=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute(), sync_dist=True)
        self.val_loss.reset()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CaptionData)
        self.log_captions(self.written, data.val.references)
        self.written = []

    def predict_step(self, batch: Batch, batch_idx: int) -> list[tuple[int, str]]:
        """Rows and captions."""
        return list(zip(batch["row"].tolist(), self.captions(batch, self.decoding), strict=True))

    def examples(self, data: Texts, batch: Batch) -> list[str]:
        """`caption (an annotator's caption)` of each."""
        references = [data.records[row]["caption"] for row in batch["row"].tolist()]
        return [
            f"{own} (given: {reference})"
            for own, reference in zip(self.captions(batch, DecodingConfig()), references, strict=True)
        ]


def all_finite(state: Mapping[str, Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in state.values()]).all())
