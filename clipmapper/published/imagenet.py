"""Perturbed images: how long a classifier is right when patches are blacked out by relevance (TransAtt §4, GenAtt §5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from clipmapper.data.images import load_image
from clipmapper.published.classes import class_indices, labelled_images
from clipmapper.published.explained import Methods, floor, mean_floor, methods_of, on_grid, readable, recorded, spread
from clipmapper.published.pictures import classified
from clipmapper.published.results import Found, rows, write
from clipmapper.published.settings import ImageNet
from clipmapper.published.vision import Vision, load_classifier
from xai.metrics.perturbation import Perturbed, perturb
from xai.metrics.protocols import DIRECTIONS, area, named
from xai.metrics.removal import blank
from xai.metrics.statistics import mean_interval
from xai.targets import given, logits, predicted

EXPLAINED = ("predicted", "target")
PROTOCOL = named("transatt", "image")


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # [B], places among all images
    pixels: Tensor  # [B, 3, H, W]
    labels: Tensor  # [B]


@dataclass(frozen=True)
class Measured:
    curves: Tensor  # [explained, methods, directions, B, steps], random scores last
    predicted: Tensor  # [B]


def run(settings: ImageNet) -> None:
    """Measures, and writes the results to `settings.output`."""
    methods, images = methods_of(settings.methods), labelled_images(settings.data)
    vision = load_classifier(settings)
    names = sorted({name for _, name in images})
    classes = class_indices(names, vision.names, vision.classes, settings.labels)
    chosen = readable(spread(len(images), settings.samples), lambda i: load_image(images[i][0]))
    parts = []
    for start in tqdm(range(0, len(chosen), settings.batch_size), desc="imagenet", unit="batch"):
        some = chosen[start : start + settings.batch_size]
        batch = _batch(vision, some, [images[i][0] for i in some], [classes[images[i][1]] for i in some])
        parts.append(measure(vision, batch, methods, settings))
    shown = [images[i] for i in chosen[: settings.pictures]]
    picture = classified(vision, methods, [load_image(path) for path, _ in shown], [name for _, name in shown])
    samples: dict[str, list[Any]] = {
        "image": [str(images[i][0].relative_to(settings.data)) for i in chosen],
        "label": [classes[images[i][1]] for i in chosen],
    }
    write(summed_up(parts, samples, methods, settings, picture), methods, vision.model, settings)


def summed_up(
    parts: Sequence[Measured],
    samples: dict[str, list[Any]],
    methods: Methods,
    settings: ImageNet,
    picture: Figure | None,
) -> Found:
    """Areas with their intervals, and the rows of the samples."""
    curves = torch.cat([part.curves for part in parts], dim=3)
    answers = torch.cat([part.predicted for part in parts]).tolist()
    areas = area(curves, PROTOCOL.shares)
    keys = {f"{d}/{e}": (i, slice(None), j) for i, e in enumerate(EXPLAINED) for j, d in enumerate(DIRECTIONS)}
    values = {name: areas[key].numpy() for name, key in keys.items()}
    steps = {f"curve/{name}": curves[key].numpy() for name, key in keys.items()}
    right = [answer == label for answer, label in zip(answers, samples["label"], strict=True)]
    return Found(
        "imagenet",
        {name: mean_interval(v) for name, v in values.items()},
        {**PROTOCOL.record(), "unit": settings.unit, "figure": "top-1 accuracy", "removed": "black"},
        rows(methods, {**samples, "predicted": answers}, values | steps),
        picture,
        {"samples": len(right), "accuracy": sum(right) / len(right)},
    )


def measure(vision: Vision, batch: Batch, methods: Methods, settings: ImageNet) -> Measured:
    """Curves of both classes; a method whose relevance is the same for both is run once."""
    recording = recorded(vision.model, vision.adapter, vision.inputs(batch.pixels), methods)
    targets = (predicted(), given(batch.labels))
    maps = torch.cat([on_grid(recording, methods.scores(recording, target, "image")) for target in targets])
    random = floor(batch.ids.to(maps.device), maps[0, 0].numel()).unflatten(-1, maps.shape[-2:])
    curves = accuracies(vision, batch, torch.cat([maps, random]), settings)
    count = len(methods.names)
    noise = curves[2 * count :]
    by_class = [mean_floor(torch.cat([part, noise]), methods) for part in (curves[:count], curves[count : 2 * count])]
    return Measured(torch.stack(by_class).cpu(), logits(recording.output).detach().argmax(dim=1).cpu())


def accuracies(vision: Vision, batch: Batch, maps: Tensor, settings: ImageNet) -> Tensor:
    """Curves [maps, directions, B, steps] of being right, from maps [maps, B, rows, columns]."""
    if settings.unit == "patches":
        return _perturbed(vision, batch, maps, settings.perturbed)
    each = []
    for i in range(len(batch.ids)):  # pixels are many: one image at a time
        alone = Batch(*(t[i : i + 1] for t in (batch.ids, batch.pixels, batch.labels)))
        fine = F.interpolate(maps[:, i : i + 1], size=batch.pixels.shape[2:], mode="bilinear", align_corners=False)
        each.append(_perturbed(vision, alone, fine, settings.perturbed))
    return torch.cat(each, dim=2)


def _perturbed(vision: Vision, batch: Batch, maps: Tensor, at_once: int) -> Tensor:
    grid = (int(maps.shape[-2]), int(maps.shape[-1]))
    relevance = maps.flatten(2)

    def predict(part: Perturbed) -> dict[str, Tensor]:
        images = batch.pixels[part.rows]
        seen = blank(images, vision.black.expand_as(images), part.keep, grid)
        return {"accuracy": vision.logits(seen).argmax(dim=1) == batch.labels[part.rows]}

    removable = torch.ones_like(relevance[0], dtype=torch.bool)
    return perturb(relevance, removable, batch.ids, predict, PROTOCOL, batch_size=at_once)["accuracy"]


def _batch(vision: Vision, ids: Sequence[int], paths: Sequence[Path], labels: Sequence[int]) -> Batch:
    pixels = vision.pixels([load_image(path) for path in paths])
    return Batch(torch.tensor(ids, device=pixels.device), pixels, torch.tensor(labels, device=pixels.device))
