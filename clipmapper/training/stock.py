"""Models of transformers' own classes that answer and caption, as a LightningModule."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from clipmapper.config import OptimizerConfig
from clipmapper.data.answers import vqa_accuracy
from clipmapper.data.batches import Batch, Texts
from clipmapper.data.dialogues import DialogueData, Dialogues
from clipmapper.models.stock.base import StockModel, attention_mask
from clipmapper.training.tasks import TrainedTask


class StockTask(TrainedTask):
    """Each token of an answer or caption from the image, the question and the tokens before it (teacher forcing)."""

    model: StockModel
    monitor = "val/accuracy"

    def __init__(self, model: StockModel, optimizer: OptimizerConfig, seed: int, extra: dict[str, Any]) -> None:
        super().__init__(model, optimizer, seed, extra)
        self.accuracy = MeanMetric()
        self.written: list[tuple[int, str]] = []  # rows and captions of this validation

    @property
    def encoder(self) -> StockModel:
        return self.model

    def token_loss(self, batch: Batch, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean over the texts of the mean loss of each one's tokens, and how many texts they are."""
        mask = attention_mask(batch["part"])
        states = self.model.states(self.image_tokens(batch), batch["ids"], batch["place"], mask)
        logits = self.model.logits(states.flatten(0, 1).index_select(0, batch["following"]))
        losses = F.cross_entropy(logits.float(), batch["targets"], reduction="none", label_smoothing=smoothing)
        texts = batch["weights"].sum()
        return (losses * batch["weights"]).sum() / texts, texts

    def loss(self, batch: Batch) -> Tensor:
        return self.token_loss(batch, self.config.label_smoothing)[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, the official accuracy of the answers, and captions."""
        self.val_loss.update(*self.token_loss(batch))
        self.log_skipped(batch)
        rows, image = batch["row"].tolist(), self.image_tokens(batch)
        data = self.trainer.datamodule.val  # type: ignore[attr-defined]
        assert isinstance(data, Dialogues)
        asked = [(i, *pair) for i, row in enumerate(rows) for pair in data.asked(row) if pair[1]]
        answers = self.model.write(image, [i for i, *_ in asked], [question for _, question, _ in asked])
        for answer, (_, _, truth) in zip(answers, asked, strict=True):
            self.accuracy.update(100 * vqa_accuracy(answer, truth))
        said = [i for i, row in enumerate(rows) if data.references(row)]
        captions = self.model.write(image, said, [None] * len(said))
        self.written += zip((rows[i] for i in said), captions, strict=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute(), sync_dist=True)
        self.log("val/accuracy", self.accuracy.compute(), prog_bar=True, sync_dist=True)
        self.val_loss.reset()
        self.accuracy.reset()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, DialogueData)
        self.log_captions(self.written, data.val.references)
        self.written = []

    def examples(self, data: Texts, batch: Batch) -> list[str]:
        """`question answer (right answer); caption` of each image, of its first question."""
        assert isinstance(data, Dialogues)
        rows, image = batch["row"].tolist(), self.image_tokens(batch)
        captions = self.model.write(image, range(len(rows)), [None] * len(rows))
        asked = [data.asked(row)[:1] for row in rows]
        of = [i for i, first in enumerate(asked) if first]
        answers = dict(zip(of, self.model.write(image, of, [asked[i][0][0] for i in of]), strict=True))
        texts = []
        for i, caption in enumerate(captions):
            question = [f"{q} {answers[i]} (right: {truth[0] if truth else '?'}); " for q, truth in asked[i]]
            texts.append("".join(question) + caption)
        return texts
