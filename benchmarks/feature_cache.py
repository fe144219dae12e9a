"""An epoch with cached image tokens against one that encodes the images live, and the bound of it.

No cache saves more than data and image tower: a step of the live epoch by what else it does is the most that can be won.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import disable_progress_bars
from PIL import Image

from benchmarks.entry import Entry, Target, gain
from benchmarks.machine import DEVICE, synchronise
from benchmarks.timing import in_turn
from clipmapper.config import DataConfig, ModelConfig, ShapesConfig
from clipmapper.data.batches import Batch, Batches, loader
from clipmapper.data.features import FeatureCache
from clipmapper.data.records import load_records
from clipmapper.data.shapes.write import write_shapes
from clipmapper.data.vqa import Questions
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.heads import soft_label_loss

REST = ("text tower", "mapper", "optimizer")  # of a step, with cached features too
PARTS = ("data", "image tower", *REST)


def photographs(root: Path, images: int) -> None:
    """Shapes with its images as large as COCO's."""
    write_shapes(root, ShapesConfig(train=images, val=1, test=0, questions=5))
    for path in (root / "train2014").iterdir():
        Image.open(path).resize((640, 480)).save(path, quality=92)


class Trained:
    """A mapper B over CLIP in training: one optimizer for all epochs, so that none pays for its start."""

    def __init__(self, width: int, answers: list[str], quick: bool) -> None:
        clip = SHAPES_CLIP if quick else "ViT-B-32"
        self.model: Any = CLIPMapper(ModelConfig(clip=clip, pretrained=None, width=width), answers).to(DEVICE)
        self.optimizer = torch.optim.Adam(p for p in self.model.parameters() if p.requires_grad)
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def epoch(self, batches: Iterator[Batch]) -> None:
        """Trains, and keeps the seconds of each part; a GPU does one after the other for it."""
        self.seconds, self.since = dict.fromkeys(PARTS, 0.0), time.perf_counter()
        for batch in batches:
            moved = {name: value.to(DEVICE) for name, value in batch.items()}
            image = moved["image"]
            self._lap("data")
            tokens = image if image.ndim == 3 else self.model.clip.image_tokens(image)
            self._lap("image tower")
            words = self.model.clip.text_tokens(moved["ids"])
            self._lap("text tower")
            states = self.model.image_states(tokens), self.model.text_states(words)
            soft_label_loss(self.model.answers_to(*states, moved["mask"]), moved["scores"]).backward()
            self._lap("mapper")
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._lap("optimizer")

    def _lap(self, part: str) -> None:
        synchronise()
        now = time.perf_counter()
        self.seconds[part] += now - self.since
        self.since = now


def run(quick: bool) -> list[Entry]:
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        photographs(root := Path(folder) / "shapes", 4 if quick else 8)
        return [entry for width in ((16,) if quick else (512, 64)) for entry in _of(root, Path(folder), width, quick)]


def _of(root: Path, folder: Path, width: int, quick: bool) -> list[Entry]:
    config = DataConfig(root=root, workers=0)
    records = load_records(config)
    trained = Trained(width, list(records.vocabulary.answers), quick)
    clip = trained.model.clip
    cached, live = (Questions(records.train, root, len(records.vocabulary), clip) for _ in range(2))
    cache = FeatureCache(folder / "features", clip.identity())
    cached.fill_cache(cache, clip, config)
    cached.use_cache(cache)
    laps: dict[str, list[dict[str, float]]] = {"cached": [], "live": []}

    def train(name: str, questions: Questions) -> None:
        trained.epoch(iter(loader(questions, Batches(len(questions), 8 if quick else 20, seed=0), 0)))
        laps[name].append(trained.seconds)

    times = in_turn({"cached": lambda: train("cached", cached), "live": lambda: train("live", live)}, 1 if quick else 3)
    what = f"mapper b, width {width}"
    won = gain(f"{what}: epoch from cached features / from images", times, "cached", "live")
    pairs = list(zip(laps["cached"][1:], laps["live"][1:], strict=True))  # the first round does not count
    spent = {
        "rest": [sum(images[part] for part in REST) for _, images in pairs],
        "whole": [sum(images.values()) for _, images in pairs],
    }
    sides = zip(times["cached"], times["live"], spent["rest"], spent["whole"], strict=True)
    reached = [live / own * rest / whole for own, live, rest, whole in sides]
    waits = [kept["data"] / sum(kept.values()) for kept, _ in pairs]
    parts = {f"s of {part}": median(images[part] for _, images in pairs) for part in PARTS}
    return [
        won,
        gain(f"{what}: bound, an epoch without data and image tower", spent, "rest", "whole", extra=parts),
        Entry(f"{what}: share of the bound", unit="", ratio=median(reached), target=Target(">=", 0.9)),
        Entry(f"{what}: share of it that waits for data", unit="", ratio=median(waits), target=Target("<=", 0.05)),
    ]
