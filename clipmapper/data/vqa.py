"""Batches of questions: those of `batches`, with `scores` [B, answers] and `answer_type` [B], an index into ANSWER_TYPES."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset as Records

from clipmapper.config import DataConfig
from clipmapper.data.batches import Batch, Data, Texts
from clipmapper.data.files import column
from clipmapper.data.records import Records as Splits
from clipmapper.models.clip import FrozenCLIP

ANSWER_TYPES = ("yes/no", "number", "other")


class Questions(Texts):
    """Questions with their images and soft scores of all `answers`."""

    text = "question"

    def __init__(self, records: Records, root: Path | None, answers: int, clip: FrozenCLIP | None) -> None:
        super().__init__(records, root, clip)
        self.answers = answers
        self._truth = self.records.select_columns(["answer_type", "labels", "scores"])

    def annotated(self) -> list[int]:
        """Returns the usable rows that have answers of annotators."""
        counts = pc.list_value_length(column(self.records, "answers")).to_numpy()
        return self.rows[counts[self.rows] > 0].tolist()

    def fields(self, rows: np.ndarray) -> Batch:
        entries = self._truth[rows]
        scores = torch.zeros(len(rows), self.answers)
        for row, (labels, values) in enumerate(zip(entries["labels"], entries["scores"], strict=True)):
            scores[row, labels] = torch.tensor(values)
        types = [ANSWER_TYPES.index(t) if t in ANSWER_TYPES else len(ANSWER_TYPES) for t in entries["answer_type"]]
        return {"scores": scores, "answer_type": torch.tensor(types)}


class VQAData(Data):
    """Training and held-out questions."""

    def __init__(self, splits: Splits, config: DataConfig, clip: FrozenCLIP, seed: int) -> None:
        answers = len(splits.vocabulary)
        train, val = (Questions(r, splits.root, answers, clip) for r in (splits.train, splits.val))
        super().__init__(train, val, config, clip, seed)
