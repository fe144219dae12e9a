"""Batches of captions, and each image's captions together."""

from functools import cached_property

import numpy as np
from datasets import Dataset as Records
from open_clip.tokenizer import SimpleTokenizer
from pytorch_lightning.utilities.types import EVAL_DATALOADERS
from torch.utils.data import Subset

from clipmapper.config import DataConfig
from clipmapper.data.batches import Data, Texts, loader
from clipmapper.data.files import column
from clipmapper.data.records import CaptionRecords
from clipmapper.models.clip import FrozenCLIP


class Captions(Texts):
    """Captions with their images, one a row."""

    text = "caption"

    def references(self, row: int) -> list[str]:
        """All captions of the row's image."""
        return self._texts[self._of_image[self.images.of_row[row]]]["caption"]

    def one_each(self, count: int | None = None) -> list[int]:
        """For each image, or `count` of them from all over the data, the position of its first usable row."""
        _, first = np.unique(self.images.of_row[self.rows], return_index=True)
        if count is not None and count < len(first):
            first = first[np.linspace(0, len(first) - 1, count).astype(int)]
        return first.tolist()

    @cached_property
    def _of_image(self) -> list[np.ndarray]:
        """Rows of each image."""
        return rows_of(self.images.of_row, len(self.images))


class CaptionData(Data):
    """Training and held-out captions; validation has all held-out captions, and `captioned` images to caption."""

    train: Captions
    val: Captions

    def __init__(
        self, records: CaptionRecords, config: DataConfig, clip: FrozenCLIP, seed: int, captioned: int
    ) -> None:
        train, val = (Captions(split, records.root, clip) for split in (records.train, records.val))
        super().__init__(train, val, config, clip, seed)
        self.captioned = captioned

    def val_dataloader(self) -> EVAL_DATALOADERS:
        chosen = self.val.one_each(self.captioned)
        images = loader(Subset(self.val, chosen), self.batches(len(chosen), None), self.config.workers)
        return [super().val_dataloader(), images]


def rows_of(of_row: np.ndarray, images: int) -> list[np.ndarray]:
    """Returns the rows of each image, from the number of each row's image [n]."""
    order = np.argsort(of_row, kind="stable")
    return np.split(order, np.bincount(of_row, minlength=images).cumsum()[:-1])


def seen_tokens(records: Records, tokenizer: SimpleTokenizer) -> list[int]:
    """BPE ids that occur in the captions, start and end included, in order."""
    seen = set(tokenizer.all_special_ids)
    for text in column(records, "caption").unique().to_pylist():
        seen.update(tokenizer.encode(text))
    return sorted(seen)
