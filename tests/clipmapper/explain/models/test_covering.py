"""Patches that are covered lie where they are in the picture, however a processor lays out its pixels."""

from typing import Any

import pytest
import torch

from clipmapper.explain.models.covering import covering
from xai.generation.inputs import prompt_inputs
from xai.generation.pictures import pictures_of
from xai.metrics.perturbation import Perturbed

from ....xai.generation.families import loaded, picture


def prepared(name: str) -> tuple[Any, dict[str, Any], tuple[int, int], int]:
    """The image processor, a picture's arguments, rows and columns of its patches, and their side."""
    family = loaded(name)
    inputs = prompt_inputs(family.model, family.processor, [picture(3, (64, 32))], family.text, None)
    images = family.processor.image_processor
    if "image_grid_thw" in inputs:
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        return images, inputs, (rows, columns), images.patch_size
    return images, inputs, (4, 4), inputs["pixel_values"].shape[-1] // 4


@pytest.mark.parametrize("name", ["Qwen2-VL", "LLaVA"])
@pytest.mark.parametrize("removal", ["mean", "zero"])
def test_one_patch_is_covered_and_no_other(name: str, removal: Any) -> None:
    images, inputs, grid, side = prepared(name)
    pixels = inputs["pixel_values"]
    cell = grid[1] + 2  # of the second row
    keep = torch.ones(2, grid[0] * grid[1], dtype=torch.bool)
    keep[0, cell] = False
    cover = covering(images, inputs, grid, removal, name)
    two = torch.cat([pixels, pixels])
    seen = cover(Perturbed(torch.tensor([0, 0]), keep, 0), two, keep).split(len(pixels))
    before, after, same = (
        pictures_of(loaded(name).processor, {**inputs, "pixel_values": values}, ["image"])["image"]
        for values in (pixels, *seen)
    )
    assert torch.equal(before, same)
    changed = torch.zeros(before.shape[1:], dtype=torch.bool)
    row, column = divmod(cell, grid[1])
    changed[row * side : (row + 1) * side, column * side : (column + 1) * side] = True
    assert torch.equal(before[:, ~changed], after[:, ~changed]) and not torch.equal(before, after)
    colour = before.mean(dim=(1, 2)) if removal == "mean" else torch.zeros(3)
    torch.testing.assert_close(after[:, changed], colour[:, None].expand(3, side * side), atol=1e-4, rtol=1e-3)


def test_what_cannot_be_covered_is_refused() -> None:
    images, inputs, grid, _ = prepared("Qwen2-VL")
    with pytest.raises(ValueError, match="patches cannot be covered"):
        covering(images, inputs, grid, "blur", "Qwen")
    with pytest.raises(ValueError, match="patches cannot be covered"):
        covering(images, {}, None, "mean", "it")
