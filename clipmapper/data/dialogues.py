"""Batches of images with all that is asked and said of them, for models that write: questions with answers, and captions.

A batch is a dict of tensors, B images of L tokens: `image` as in `batches`; `ids`, `part`, `place` [B, L], the opening (part 0)
and one text after the other (parts 1, 2, ...), whose positions each go on from the opening's; `following` [N], where in `ids`,
flattened, a token of an answer or caption comes next; `targets` [N], that token, and `weights` [N], which are 1 for each text
together; `row`, `skipped`.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset as Records
from pytorch_lightning.utilities.types import EVAL_DATALOADERS
from torch.utils.data import Subset

from clipmapper.config import DataConfig
from clipmapper.data.batches import Batch, Batches, Data, Encoder, Texts, loader
from clipmapper.data.captions import rows_of
from clipmapper.data.files import column
from clipmapper.data.records import CaptionRecords
from clipmapper.data.records import Records as QuestionRecords

AT_ONCE = 50  # images of a validation batch: the more, the more prompts of one length are answered together


class Speaker(Encoder, Protocol):
    """A model's tokens of images and texts."""

    opening: list[int]

    def prompt(self, question: str | None) -> str: ...

    def reply(self, question: str | None, text: str) -> str: ...

    def encoded(self, texts: Sequence[str]) -> list[list[int]]: ...


class Dialogues(Texts):
    """Images, one a row, with their questions and captions."""

    text = "image"

    def __init__(self, questions: Records, captions: Records, root: Path, speaker: Speaker | None) -> None:
        names = [column(records, "image").unique() for records in (questions, captions)]
        images = pa.concat_arrays(
            [part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part for part in names]
        )
        super().__init__(Records.from_dict({"image": sorted(images.unique().to_pylist())}), root, speaker)
        self.questions, self.captions, self.speaker = questions, captions, speaker

    def asked(self, row: int) -> list[tuple[str, list[str]]]:
        """The questions about an image, each with its annotators' answers."""
        records = self.questions[self._asked[row]]
        return list(zip(records["question"], records["answers"], strict=True))

    def references(self, row: int) -> list[str]:
        """All captions of an image."""
        return self.captions[self._said[row]]["caption"]

    def tokens(self, rows: np.ndarray) -> Batch:
        packed = [self._packed(row) for row in rows]
        length = max(len(ids) for ids, *_ in packed)
        ids, part, place = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3))
        following: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        for i, (own, parts, places, replies) in enumerate(packed):
            count = len(own)
            ids[i, :count], part[i, :count], place[i, :count] = map(torch.tensor, (own, parts, places))
            part[i, count:] = -1  # no text sees padding
            for before, reply in replies:
                following += [i * length + at for at in before]
                targets += reply
                weights += [1 / len(reply)] * len(reply)
        return {
            "ids": ids,
            "part": part,
            "place": place,
            "following": torch.tensor(following),
            "targets": torch.tensor(targets),
            "weights": torch.tensor(weights),
        }

    def _packed(self, row: int) -> tuple[list[int], list[int], list[int], list[tuple[list[int], list[int]]]]:
        """Ids, parts and places of an image's texts, and of each answer or caption the positions before its tokens, and these."""
        assert self.speaker is not None
        turns = self._turns(row)
        prompts = self.speaker.encoded([self.speaker.prompt(question) for question, _ in turns])
        replies = self.speaker.encoded([self.speaker.reply(question, text) for question, text in turns])
        opening, end = self.speaker.opening, self.speaker.tokenizer.eos_token_id
        ids, parts, places = [*opening], [0] * len(opening), [*range(len(opening))]
        spans = []
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True), start=1):
            start = len(ids) + len(prompt)
            first = (
                start - 1 if prompt else len(opening) - 1
            )  # nothing but the opening stands before a text without a prompt
            text = [*prompt, *reply, end]
            ids += text
            parts += [number] * len(text)
            places += range(len(opening), len(opening) + len(text))
            spans.append(([first, *range(start, len(ids) - 1)], [*reply, end]))
        return ids, parts, places, spans

    def _turns(self, row: int) -> list[tuple[str | None, str]]:
        """Questions with their commonest answers, then captions."""
        records = self.questions[self._asked[row]]
        answered: list[tuple[str | None, str]] = [*zip(records["question"], records["answer"], strict=True)]
        return [turn for turn in answered if turn[1]] + [(None, caption) for caption in self.references(row)]

    @cached_property
    def _asked(self) -> list[np.ndarray]:
        return self._rows_of(self.questions)

    @cached_property
    def _said(self) -> list[np.ndarray]:
        return self._rows_of(self.captions)

    def _rows_of(self, texts: Records) -> list[np.ndarray]:
        """Rows of each image's texts; those of a missing image are left out."""
        images = column(self.records, "image").combine_chunks()
        of = pc.index_in(column(texts, "image").combine_chunks(), value_set=images).fill_null(len(images)).to_numpy()
        return rows_of(of, len(images) + 1)[:-1]


class DialogueData(Data):
    """Training and held-out images with their texts; validation asks and captions `count` held-out images."""

    train: Dialogues
    val: Dialogues

    def __init__(
        self,
        questions: QuestionRecords,
        captions: CaptionRecords,
        config: DataConfig,
        speaker: Speaker,
        seed: int,
        count: int,
    ) -> None:
        train, val = (
            Dialogues(asked, said, config.root, speaker)
            for asked, said in ((questions.train, captions.train), (questions.val, captions.val))
        )
        super().__init__(train, val, config, speaker, seed)
        self.count = count

    def val_dataloader(self) -> EVAL_DATALOADERS:
        assert self.trainer is not None
        chosen = self.val_rows()
        batches = Batches(len(chosen), AT_ONCE, None, self.trainer.global_rank, self.trainer.world_size)
        return loader(Subset(self.val, chosen), batches, self.config.workers)

    def val_rows(self) -> list[int]:
        """Positions of the images of a validation, from all over the held-out ones."""
        return np.linspace(0, len(self.val) - 1, min(self.count, len(self.val))).astype(int).tolist()


def all_texts(questions: Records, captions: Records) -> Iterator[tuple[str | None, str]]:
    """Yields each question with its answer, and each caption."""
    for batch in questions.select_columns(["question", "answer"]).iter(1000):
        yield from zip(batch["question"], batch["answer"], strict=True)
    for batch in captions.select_columns(["caption"]).iter(1000):
        yield from ((None, caption) for caption in batch["caption"])
