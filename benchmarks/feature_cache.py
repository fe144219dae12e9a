"""An epoch with cached image tokens against one that encodes the images live, and how long the loop waits for data."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from datasets import disable_progress_bars
from PIL import Image

from benchmarks.entry import Entry, Target, gain
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


def photographs(root: Path, images: int) -> None:
    """Shapes with its images as large as COCO's."""
    write_shapes(root, ShapesConfig(train=images, val=1, test=0, questions=5))
    for path in (root / "train2014").iterdir():
        Image.open(path).resize((640, 480)).save(path, quality=92)


def epoch(model: CLIPMapper, batches: Iterator[Batch]) -> tuple[float, float]:
    """Seconds of an epoch of training, and of them the seconds spent waiting for batches."""
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    start, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return time.perf_counter() - start, waited
        image = batch["image"]
        tokens = image if image.ndim == 3 else model.clip.image_tokens(image)
        soft_label_loss(model(tokens, batch["ids"], batch["mask"]), batch["scores"]).backward()
        optimizer.step()
        optimizer.zero_grad()


def run(quick: bool) -> list[Entry]:
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        photographs(root := Path(folder) / "shapes", 4 if quick else 8)
        return [entry for width in ((16,) if quick else (512, 64)) for entry in _of(root, Path(folder), width, quick)]


def _of(root: Path, folder: Path, width: int, quick: bool) -> list[Entry]:
    config = DataConfig(root=root, workers=0)
    records = load_records(config)
    clip = SHAPES_CLIP if quick else "ViT-B-32"
    model = CLIPMapper(ModelConfig(clip=clip, pretrained=None, width=width), list(records.vocabulary.answers))
    cached, live = (Questions(records.train, root, len(records.vocabulary), model.clip) for _ in range(2))
    cache = FeatureCache(folder / "features", model.clip.identity())
    cached.fill_cache(cache, model.clip, config)
    cached.use_cache(cache)
    waits: list[float] = []

    def train(questions: Questions) -> None:
        batches = Batches(len(questions), 8 if quick else 20, seed=0)
        total, waited = epoch(model, iter(loader(questions, batches, 0)))
        if questions is cached:
            waits.append(waited / total)

    times = in_turn({"cached": lambda: train(cached), "live": lambda: train(live)}, 1 if quick else 3, warm=False)
    share = median(waits)
    what = f"mapper b, width {width}"
    return [
        gain(f"{what}: epoch from cached features / from images", times, "cached", "live", 10),
        Entry(f"{what}: share of it that waits for data", unit="", ratio=share, target=Target("<=", 0.05)),
    ]
