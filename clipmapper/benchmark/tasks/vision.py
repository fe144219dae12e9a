"""Image models of transformers and timm with their own preprocessing, and where it puts the pixels of an image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.benchmark.tasks.folders import unique_classes
from clipmapper.benchmark.tasks.source import PaperSettings
from clipmapper.models.pretrained import from_transformers, require_finite
from xai import Adapter, adapter_for
from xai.figures.geometry import Geometry, Size, cut, processor_geometry, shortest, squash
from xai.targets import logits

TIMM = "timm:"


@dataclass(frozen=True, eq=False)
class Vision:
    """A classifier of images, and how it takes them."""

    model: nn.Module
    adapter: Adapter
    pixels: Callable[[Sequence[Image.Image]], Tensor]  # [B, 3, H, W] on the model's device
    argument: str  # of the model's forward, that takes them
    geometry: Callable[[Size], Geometry]
    black: Tensor  # [3, 1, 1], a black pixel after normalisation
    names: dict[str, int]  # the model's own names of its classes, where one class alone has it
    classes: int

    def inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        return {self.argument: pixels}

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        return logits(self.model(**self.inputs(pixels)))


def load_classifier(settings: PaperSettings) -> Vision:
    """The model of `settings`; raises ValueError or OSError, naming it, if it cannot be had, explained or placed on pixels."""
    source = settings.model
    vision = _of_timm(source.removeprefix(TIMM)) if source.startswith(TIMM) else _of_transformers(source)
    if not vision.classes:
        raise ValueError(f"--model: {source} has no head, so it predicts no class; give a model trained to classify")
    model = placed(vision.model, settings)
    like = next(model.parameters())
    return replace(vision, black=vision.black.to(like), pixels=lambda images: vision.pixels(images).to(like))


def placed(model: nn.Module, settings: PaperSettings) -> nn.Module:
    """In evaluation mode, where and in what the settings say."""
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().to(device, getattr(torch, settings.dtype))


def processor_of(source: str) -> Any:
    """The image processor of a folder or a hub id; raises ValueError, naming it, if there is none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model: {source} has no image processor ({error}); save it there: processor.save_pretrained(FOLDER)"
        ) from error


def known_adapter(model: nn.Module) -> Adapter:
    """Raises ValueError for a model that has none."""
    try:
        return adapter_for(model)
    except TypeError as error:
        raise ValueError(f"--model: {error}") from error


def _of_transformers(source: str) -> Vision:
    from transformers import AutoModelForImageClassification

    model = from_transformers(AutoModelForImageClassification, source, "image classification")
    processor = processor_of(source)
    processor_geometry(processor, (32, 32))  # refused before anything is computed
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)

    def pixels(images: Sequence[Image.Image]) -> Tensor:
        return processor(list(images), return_tensors="pt")["pixel_values"]

    def geometry(size: Size) -> Geometry:
        return processor_geometry(processor, size)

    names, classes = unique_classes(model.config.id2label), len(model.config.id2label)
    return Vision(model, known_adapter(model), pixels, "pixel_values", geometry, _black(mean, std), names, classes)


def _of_timm(name: str) -> Vision:
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=True)
    except RuntimeError as error:  # timm's for an unknown name, or weights that do not fit
        raise ValueError(f"--model: timm has no weights for {name!r} ({error})") from error
    require_finite(model.state_dict(), TIMM + name)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    names = unique_classes(dict(enumerate(getattr(model, "pretrained_cfg", {}).get("label_names") or ())))

    def pixels(images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([transform(image) for image in images])

    def geometry(size: Size) -> Geometry:
        return _timm_geometry(config, size)

    geometry((32, 32))
    return Vision(
        model,
        known_adapter(model),
        pixels,
        "x",
        geometry,
        _black(config["mean"], config["std"]),
        names,
        int(model.num_classes),
    )


def _timm_geometry(config: Mapping[str, Any], original: Size) -> Geometry:
    """timm resizes to the window's size over `crop_pct`, and cuts the window from the middle."""
    height, width = config["input_size"][-2:]
    large = floor(height / config["crop_pct"]), floor(width / config["crop_pct"])
    if config["crop_mode"] == "squash":
        return cut(squash(original, large), (height, width))
    if config["crop_mode"] == "center" and height == width:
        return shortest(original, large[0], (height, width))
    raise ValueError(
        f"--model: timm's crop mode {config['crop_mode']!r} for {height} x {width} pixels is not supported"
    )


def _black(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (-torch.tensor(mean) / torch.tensor(std))[:, None, None]
