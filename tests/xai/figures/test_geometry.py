"""Marked images go through the real preprocessing; what the model saw of them must be where the geometry says."""

from collections.abc import Callable
from math import isnan

import numpy as np
import pytest
import torch
import transformers as tf
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from xai.figures.geometry import Geometry, longest, shortest, squash, upsample

SIDE, PATCH = 32, 8
Preprocess = Callable[[Image.Image], Tensor]


def open_clip(mode: str, size: tuple[int, int] = (SIDE, SIDE)) -> Preprocess:
    config = PreprocessCfg(size=size, resize_mode=mode, mean=(0, 0, 0), std=(1, 1, 1))
    return image_transform_v2(config, is_train=False)


def transformers(image: Image.Image) -> Tensor:
    processor = tf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return processor(image, do_normalize=False, return_tensors="pt")["pixel_values"][0]


WAYS: dict[str, tuple[Preprocess, Callable[[tuple[int, int]], Geometry]]] = {
    "shortest": (open_clip("shortest"), lambda size: shortest(size, SIDE)),
    "shortest, not square": (open_clip("shortest", (32, 48)), lambda size: shortest(size, (32, 48))),
    "longest": (open_clip("longest"), lambda size: longest(size, SIDE)),
    "longest, not square": (open_clip("longest", (48, 32)), lambda size: longest(size, (48, 32))),
    "squash": (open_clip("squash"), lambda size: squash(size, SIDE)),
    "transformers": (transformers, lambda size: shortest(size, SIDE, by="transformers")),
    "larger than the window": (
        Compose([Resize(41), CenterCrop(SIDE), ToTensor()]),
        lambda size: shortest(size, 41, crop=SIDE),
    ),
    "smaller than the window": (
        Compose([Resize(19), CenterCrop(SIDE), ToTensor()]),
        lambda size: shortest(size, 19, crop=SIDE),
    ),
}
SIZES = [(97, 64), (64, 97), (75, 203), (250, 81), (33, 32), (90, 90), (21, 17), (13, 26)]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[Preprocess, Callable[[tuple[int, int]], Geometry]]:
    return WAYS[request.param]


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_of_the_input_comes_from_where_the_geometry_says(way, size: tuple[int, int]) -> None:
    """An image whose red grows downwards and green to the right tells each input pixel where it was."""
    preprocess, geometry_of = way
    geometry = geometry_of(size)
    down, right = np.meshgrid(*((np.arange(n) + 0.5) / n for n in size), indexing="ij")
    coded = np.stack([down, right, np.ones(size)], axis=-1)
    seen = preprocess(Image.fromarray((255 * coded).round().astype(np.uint8))).numpy()
    assert seen.shape[1:] == geometry.window
    for axis in (0, 1):
        place = geometry.offset[axis] + np.arange(geometry.window[axis]) + 0.5
        expected = (place / geometry.resized[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        inner = seen[2] > 0.999  # not in the padding
        # resampling bends the ramp beside the borders of the image
        margin = 2.5 * max(1 / geometry.original[axis], 1 / geometry.resized[axis])
        inner = inner & (expected > margin) & (expected < 1 - margin)
        assert inner.any()
        off = np.abs(seen[axis] - expected)[inner] * geometry.resized[axis]  # in pixels of the input
        assert off.max() < 0.6


@pytest.mark.parametrize(
    "size", [(321, 200), (200, 333), (251, 811), (902, 255), (301, 301)]
)  # pixels finer than the input's
@pytest.mark.parametrize("patch", [(0, 0), (1, 3), (3, 1), (3, 3)])
def test_a_hot_patch_lands_on_the_pixels_it_saw(way, size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Paint these pixels white and the patch turns white, its neighbours do not; what lies in padding stays black."""
    preprocess, geometry_of = way
    geometry = geometry_of(size)
    hot = torch.zeros(*(side // PATCH for side in geometry.window))
    hot[patch] = 1
    white = upsample(hot, geometry, "nearest", outside=0)
    assert white.shape == size and set(white.unique().tolist()) <= {0.0, 1.0}
    painted = Image.fromarray((255 * white.numpy()).astype(np.uint8)).convert("RGB")
    found, whole = (
        preprocess(image)[0].unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).mean((2, 3))
        for image in (painted, Image.new("RGB", size[::-1], "white"))
    )
    torch.testing.assert_close(found, hot * whole, atol=0.08, rtol=0)  # a pixel off is 0.125


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (shortest((480, 640), 224), ((224, 298), (0, 37))),
        (shortest((640, 480), 224), ((298, 224), (37, 0))),
        (shortest((100, 103), 100), ((100, 103), (0, 2))),  # 1.5 is rounded to the even 2
        (shortest((100, 105), 100), ((100, 105), (0, 2))),  # and 2.5 too
        (shortest((100, 103), 100, by="transformers"), ((100, 103), (0, 1))),
        (shortest((500, 400), 256, crop=224), ((320, 256), (48, 16))),
        (longest((480, 640), 224), ((168, 224), (-28, 0))),
        (squash((480, 640), 224), ((224, 224), (0, 0))),
    ],
)
def test_known_sizes(geometry: Geometry, expected: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert (geometry.resized, geometry.offset) == expected


def test_by_hand() -> None:
    """A row of two patches of 2 pixels over the middle of an image twice as fine, one input pixel cut on each side."""
    geometry = Geometry((2, 12), (1, 6), (0, 1), (1, 4))
    one = torch.tensor([[[0.0, 4.0]]])
    nearest = upsample(one, geometry, "nearest", outside=-1)[0]
    assert nearest.tolist() == [[-1, -1, 0, 0, 0, 0, 4, 4, 4, 4, -1, -1]] * 2
    bilinear = upsample(one, geometry, outside=-1)[0]
    assert bilinear.tolist() == [[-1, -1, 0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4, -1, -1]] * 2
    assert isnan(upsample(one, geometry)[0, 0, 0])


def test_a_constant_map_stays_constant_and_leading_axes_are_kept() -> None:
    map = torch.full((2, 3, 5, 7), 0.25, dtype=torch.float64)
    found = upsample(map, squash((31, 43), 35))
    assert found.shape == (2, 3, 31, 43) and found.dtype == torch.float64
    torch.testing.assert_close(found, torch.full_like(found, 0.25))


def test_bilinear_is_torch_s_own_where_nothing_is_cropped() -> None:
    map = torch.randn(1, 1, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(map, size=(37, 50), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(map, squash((37, 50), 24)), expected)


def test_shares_of_the_window() -> None:
    assert squash((30, 50), 32).shares() == (0, 0, 1, 1)
    assert shortest((64, 128), 32).shares() == (0.25, 0, 0.5, 1), "the middle half of a picture twice as wide as high"
    assert longest((64, 128), 32).shares() == (0, -0.5, 1, 2), "padding above and below"
