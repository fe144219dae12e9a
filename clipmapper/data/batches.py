"""Batches of texts about images, for training and evaluation: which rows, in which order, with which images.

A batch is a dict of tensors, B texts: `image` [B, I, D] CLIP's tokens or [B, 3, H, W] pixels; `ids`, `mask` [B, T]; `row`
[B], the texts' rows; `following`, where in `ids[:, 1:]`, flattened, real tokens are; `skipped`, how many texts the batch
lost to unreadable images; and what the task adds.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from datasets import Dataset as Records
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clipmapper.config import DataConfig
from clipmapper.data.features import FeatureCache
from clipmapper.data.records import Images, without_missing_images
from clipmapper.images import BadImage, ImageSource, image_key, load_image
from clipmapper.models.clip import tokenize
from clipmapper.processes import World, all_gathered, grouped, patient_group

Batch = dict[str, Tensor]


class Encoder(Protocol):
    """A model's image tower, and its tokenizer."""

    preprocess: Any
    tokenizer: Any

    def identity(self) -> dict[str, str]: ...

    def image_tokens(self, pixels: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def to(self, device: torch.device) -> Any: ...


class Texts(Dataset):
    """Texts with their images; indexed by a list of rows, gives their batch.

    `text` names the column that is tokenized, and what a row is called in messages; `fields` are further tensors of rows.
    """

    text = "text"

    def __init__(self, records: Records, root: Path | None, clip: Encoder | None) -> None:
        self.records, self.missing = without_missing_images(records, root)
        self.images = Images(self.records, root)
        # Without a CLIP the records and their images are there, but no batches.
        self.tokenizer: Any = None if clip is None else clip.tokenizer
        self.preprocess: Any = None if clip is None else clip.preprocess
        self.rows = np.arange(len(self.records))  # usable ones; the cache takes those of unreadable images out
        self.unreadable: dict[int, str] = {}  # image -> what is wrong with it
        self._cache: FeatureCache | None = None
        self._texts = self.records.select_columns([self.text])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: list[int]) -> Batch:
        chosen = self.rows[rows]
        readable, image = self._image(chosen)
        if not readable and len(rows) < len(self):  # no batch is empty, lest one of several processes has no loss
            return self[rows + [(rows[-1] + 1 + i) % len(self) for i in range(len(rows))]]
        taken = chosen[readable]
        return {
            "image": image,
            "row": torch.from_numpy(taken),
            "skipped": torch.tensor(len(chosen) - len(taken)),
            **self.tokens(taken),
            **self.fields(taken),
        }

    def tokens(self, rows: np.ndarray) -> Batch:
        """`ids`, `mask` and `following` of the rows' texts."""
        ids, mask = tokenize(self.tokenizer, self._texts[rows][self.text])
        following = mask[:, 1:].flatten().nonzero()[:, 0]  # found here, where it does not stop a GPU
        return {"ids": ids, "mask": mask, "following": following}

    def fields(self, rows: np.ndarray) -> Batch:
        return {}

    def source(self, row: int) -> ImageSource:
        """The image of a row."""
        return self.images.source(int(self.images.of_row[row]))

    def use_cache(self, cache: FeatureCache) -> None:
        """Reads CLIP's tokens from `cache` from now on; texts whose image is not in it are left out."""
        absent = set(cache.missing(key for key in self._keys if key))
        there = np.array([bool(key) and key not in absent for key in self._keys])
        self.rows = np.flatnonzero(there[self.images.of_row])
        self._cache = cache

    def fill_cache(self, cache: FeatureCache, clip: Encoder, config: DataConfig) -> None:
        """Encodes the images that `cache` lacks where CLIP is; each process its share, then all wait for each other.

        OSError if the processes do not see the same files.
        """
        sources = {key: image for image, key in enumerate(self._keys) if key}
        device = next(clip.parameters()).device
        world = grouped() or World()
        with patient_group() as group:
            failed = cache.build(
                {key: sources[key] for key in world.share(list(sources))},
                partial(_load_pixels, self.images.source, self.preprocess),
                lambda pixels: clip.image_tokens(pixels.to(device)),
                batch_size=config.encode_batch,
                num_workers=config.workers,
                bad=(BadImage,),
                progress=world.first,
            )
            failed = {key: message for part in all_gathered(failed, group) for key, message in part.items()}
        cache.wait_for(sources.keys() - failed.keys())
        self.unreadable |= {sources[key]: message for key, message in failed.items()}

    def encode_once(self, clip: Encoder, config: DataConfig) -> None:
        """Fills the cache of `config` and reads from it, if it names one."""
        if config.cache is not None:
            cache = FeatureCache(config.cache, clip.identity())
            self.fill_cache(cache, clip, config)
            self.use_cache(cache)

    def skipped(self) -> dict[str, int]:
        """Texts left out so far, by reason."""
        return {"missing image": self.missing, "unreadable image": len(self.records) - len(self.rows)}

    @cached_property
    def _keys(self) -> list[str]:
        """Each image's key in the cache, "" if it cannot be read: a look at every file, or a hash of its bytes."""
        return [self._key(image) for image in range(len(self.images))]

    def _key(self, image: int) -> str:
        try:
            return image_key(self.images.source(image))
        except BadImage as error:
            self.unreadable[image] = str(error)
            return ""

    def _image(self, rows: np.ndarray) -> tuple[list[int], Tensor]:
        images = self.images.of_row[rows]
        if self._cache is not None:
            return list(range(len(rows))), self._cache.read([self._keys[image] for image in images])
        pixels, last = {}, ""
        for i, image in enumerate(images):
            try:
                pixels[i] = _load_pixels(self.images.source, self.preprocess, image)
            except BadImage as error:
                last = str(error)
                warnings.warn(f"{self.text} skipped: {error}", stacklevel=2)
        if not pixels and len(rows) >= len(self):
            raise BadImage(f"no image of {len(rows)} {self.text}s can be read: {last}")
        return list(pixels), torch.stack(list(pixels.values())) if pixels else torch.empty(0)


def _load_pixels(source: Callable[[int], ImageSource], preprocess: Callable[..., Tensor], image: int) -> Tensor:
    return preprocess(load_image(source(image)))


def mixed(*numbers: int) -> int:
    """Returns a seed that depends on all of some numbers, the same with every version of Python."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1, np.uint64)[0])


class Batches(Sampler[list[int]]):
    """Rows of each batch of one process; with `seed` in an order that depends on seed and epoch alone.

    Batch k of all processes together is the same set of rows for any number of processes, as long as
    `batch_size * world` stays the same; a shuffled epoch repeats some rows so that all get equally many.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self.epoch = 0
        self.resumed = (0, 0)  # an epoch, and how many batches of it are left out: a run was interrupted there

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def resume(self, epoch: int, start: int) -> None:
        """Goes on after `start` batches of `epoch`, which may be all of it."""
        self.epoch, start = (epoch, start) if start < len(self) else (epoch + 1, 0)
        self.resumed = (self.epoch, start)

    def _own(self) -> Tensor:
        if self.seed is None:
            return torch.arange(self.count)[self.rank :: self.world]
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(mixed(self.seed, self.epoch)))
        padded = -(-self.count // self.world) * self.world
        return order[torch.arange(self.rank, padded, self.world) % self.count]

    def __iter__(self) -> Iterator[list[int]]:
        # A generator: the epoch may still be set between this call and the first batch.
        start = self.resumed[1] if self.resumed[0] == self.epoch else 0
        own = self._own()
        for k in range(start, len(self)):
            yield own[k * self.batch_size : (k + 1) * self.batch_size].tolist()

    def __len__(self) -> int:
        share = -(-self.count // self.world) if self.seed is not None else len(self._own())
        return -(-share // self.batch_size)


class Data(pl.LightningDataModule):
    """Training and validation batches; the feature cache is filled by all processes before any reads it."""

    def __init__(self, train: Texts, val: Texts, config: DataConfig, clip: Encoder, seed: int) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.config, self.clip, self.seed = config, clip, seed
        self._resumed = (0, 0)

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            self.clip.to(self.trainer.strategy.root_device)  # Lightning moves the model there later
        for texts in (self.train, self.val):
            texts.encode_once(self.clip, self.config)

    def state_dict(self) -> dict[str, int]:
        """Returns where training stands, for a checkpoint; Lightning restores its own loops only after the loaders are made."""
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": self._train_batches.epoch, "batches": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resumed = (state["epoch"], state["batches"])

    def train_dataloader(self) -> DataLoader:
        self._train_batches = self.batches(len(self.train), self.seed)
        self._train_batches.resume(*self._resumed)
        return loader(self.train, self._train_batches, self.config.workers)

    def val_dataloader(self) -> Any:
        return loader(self.val, self.batches(len(self.val), None), self.config.workers)

    def batches(self, count: int, seed: int | None) -> Batches:
        """This process's share of `count` rows."""
        assert self.trainer is not None
        return Batches(count, self.config.batch_size, seed, self.trainer.global_rank, self.trainer.world_size)


def loader(texts: Dataset, batches: Batches, workers: int) -> DataLoader:
    """Loads whole batches, each by one call of the data set."""
    return DataLoader(
        texts,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
