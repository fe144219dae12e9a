"""Models are loaded as they were saved, and masks are cut as their processors cut images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers as tf
from PIL import Image
from timm.models import save_for_hf

from clipmapper.benchmark.tasks.source import PaperSettings
from clipmapper.benchmark.tasks.vision import load_classifier
from xai.figures.geometry import processor_geometry
from xai.metrics.masks import as_seen

SIZES: list[Any] = [
    tf.ViTImageProcessor(size={"height": 32, "width": 24}),
    tf.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
    tf.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
]


def settings(model: str | Path, **options: Any) -> PaperSettings:
    return PaperSettings(model=str(model), output=Path("unused"), device="cpu", **options)


def halves(size: tuple[int, int]) -> tuple[Image.Image, torch.Tensor]:
    """An image whose lower right part is white, and that part."""
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 3 :, size[1] // 2 :] = True
    return Image.fromarray(np.repeat(255 * mask[..., None], 3, axis=2).astype(np.uint8)), torch.from_numpy(mask)


@pytest.mark.parametrize("processor", SIZES, ids=["whole", "cut", "shortest"])
@pytest.mark.parametrize("size", [(60, 80), (90, 45)])
def test_a_mask_goes_where_the_image_goes(processor: Any, size: tuple[int, int]) -> None:
    image, mask = halves(size)
    pixels = processor(image, return_tensors="pt", do_normalize=False)["pixel_values"][0, 0]
    seen = as_seen(mask, processor_geometry(processor, size))
    assert seen.shape == pixels.shape
    assert (seen != (pixels > 0.5)).float().mean() < 0.04  # of a pixel along the edges
    assert 0.1 < seen.float().mean() < 0.9


def test_a_size_without_place_is_refused() -> None:
    processor = tf.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})
    with pytest.raises(ValueError, match="known: height and width, or shortest_edge"):
        processor_geometry(processor, (60, 80))


def test_a_saved_model_is_the_same_and_black_is_black(vit: Path) -> None:
    vision = load_classifier(settings(vit))
    assert vision.names == {"red": 0, "green": 1, "blue": 2} and vision.classes == 3
    pixels = vision.pixels([Image.new("RGB", (50, 40))])
    assert pixels.shape == (1, 3, 32, 32)
    torch.testing.assert_close(pixels, vision.black.expand(1, 3, 32, 32))
    assert vision.logits(pixels).shape == (1, 3)
    assert load_classifier(settings(vit, dtype="float64")).pixels([Image.new("RGB", (50, 40))]).dtype == torch.float64


def test_a_model_of_timm(tmp_path: Path) -> None:
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=4
    )
    config = {
        "input_size": (3, 32, 32),
        "crop_pct": 0.8,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "architecture": "vit_tiny_patch16_224",
    }
    config |= {"num_classes": 4, "interpolation": "bilinear", "crop_mode": "center"}
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model.pretrained_cfg = config
    save_for_hf(model, str(tmp_path / "vit"), model_config=None, model_args=arguments, safe_serialization=True)
    vision = load_classifier(settings(f"timm:local-dir:{tmp_path / 'vit'}"))
    image, mask = halves((60, 80))
    pixels = vision.pixels([image])
    torch.testing.assert_close(vision.logits(pixels), model.eval()(pixels))
    seen = as_seen(mask, vision.geometry((60, 80)))
    assert (seen != (pixels[0, 0] > 0)).float().mean() < 0.04
    assert vision.black.flatten().tolist() == [-1, -1, -1]


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.models.vision_transformer.VisionTransformer(**options, num_classes=0)
    model.pretrained_cfg = {"architecture": "vit_tiny_patch16_224", "input_size": (3, 32, 32), "num_classes": 0}
    save_for_hf(model, str(tmp_path), model_config=None, model_args=options, safe_serialization=True)
    with pytest.raises(ValueError, match=rf"timm:local-dir:{tmp_path} has no head, so it predicts no class"):
        load_classifier(settings(f"timm:local-dir:{tmp_path}"))


def test_what_is_no_model_is_named(vit: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json"):
        load_classifier(settings(tmp_path))
    tf.AutoModelForImageClassification.from_pretrained(vit).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare has no image processor"):
        load_classifier(settings(tmp_path / "bare"))
    swin = tf.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    tf.SwinForImageClassification(swin).save_pretrained(tmp_path / "swin")
    tf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "swin")
    with pytest.raises(ValueError, match="no adapter for SwinForImageClassification"):
        load_classifier(settings(tmp_path / "swin"))
    with pytest.raises(ValueError, match="timm has no weights for 'vit_of_nobody'"):
        load_classifier(settings("timm:vit_of_nobody"))
