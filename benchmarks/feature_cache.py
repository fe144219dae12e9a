"""An epoch with cached image tokens against one that encodes the images live, and how long the loop waits for data.

python benchmarks/feature_cache.py [--images 64] [--width 512]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import disable_progress_bars
from PIL import Image

from clipmapper.config import DataConfig, ModelConfig
from clipmapper.data.batches import Batch, Batches, loader
from clipmapper.data.records import load_records
from clipmapper.data.shapes.write import ShapesConfig, write_shapes
from clipmapper.data.vqa import Questions
from clipmapper.features import FeatureCache
from clipmapper.heads import soft_label_loss
from clipmapper.model import CLIPMapper


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--width", type=int, default=512, help="of mapper B")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        photographs(root := Path(folder) / "shapes", options.images)
        config = DataConfig(root=root, workers=options.workers)
        records = load_records(config)
        model = CLIPMapper(ModelConfig(pretrained=None, width=options.width), list(records.vocabulary.answers))
        live = Questions(records.train, root, len(records.vocabulary), model.clip)
        cached = Questions(records.train, root, len(records.vocabulary), model.clip)
        cache = FeatureCache(Path(folder) / "features", model.clip.identity())
        cached.fill_cache(cache, model.clip, config)
        cached.use_cache(cache)
        seconds: dict[str, list[tuple[float, float]]] = {"cached": [], "live": []}
        for _ in range(3):  # in turn, so that both see the same machine
            for name, questions in (("cached", cached), ("live", live)):
                batches = Batches(len(questions), options.batch, seed=0)
                seconds[name].append(epoch(model, iter(loader(questions, batches, options.workers))))
    print(f"{len(cached)} questions on {options.images} images, ViT-B-32, mapper B of width {options.width}")
    for name, runs in seconds.items():
        total, waited = min(runs)
        print(f"{name:8s} {total:7.2f} s an epoch, {100 * waited / total:5.1f} % of it waiting for data")
    print(f"ratio    {min(seconds['live'])[0] / min(seconds['cached'])[0]:7.1f} x")


if __name__ == "__main__":
    main()
