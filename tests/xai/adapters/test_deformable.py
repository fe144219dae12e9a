"""Deformable attention: its map is what the model's own module makes of values that are one-hot."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xai import explain, record
from xai.adapters.derived import derived
from xai.recording.deformable import sampled_map
from xai.recording.event import Event
from xai.recording.recording import Recording

from ..conftest import Family
from .stock import SAMPLED, built


def with_calls(family: Family) -> tuple[Recording, dict[str, tuple]]:
    """The recording, and the arguments of each deformable module."""
    calls: dict[str, tuple] = {}
    names = {
        name: module for name, module in family.model.named_modules() if type(module).__name__.startswith("MultiScale")
    }
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: calls.__setitem__(name, args))
        for name, module in names.items()
    ]
    with record(family.model, derived(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    for handle in handles:
        handle.remove()
    return recorder.recording, calls


def sampled(recording: Recording, calls: dict[str, tuple]) -> list[Event]:
    return [event for event in recording.events if event.module in calls]


def of_one_hot(module: nn.Module, args: tuple) -> Tensor:
    """[B, H, q, S], without keys whose values the model has set to zero."""
    value, *rest = args
    batch, cells, heads, _ = value.shape
    one_hot = torch.eye(cells, dtype=value.dtype)[None, :, None].expand(batch, -1, heads, -1)
    seen = module(one_hot, *rest).unflatten(-1, (heads, cells)).transpose(1, 2)
    return seen * (value != 0).any(dim=-1).transpose(1, 2)[:, :, None]


@pytest.mark.parametrize("name", list(SAMPLED))
def test_the_map_is_what_is_made_of_one_hot_values(name: str) -> None:
    family = built(name)
    recording, calls = with_calls(family)
    events = sampled(recording, calls)
    assert [event.is_self for event in events] == [True, True, False, False]
    for event in events:
        torch.testing.assert_close(event.A, of_one_hot(family.model.get_submodule(event.module), calls[event.module]))
        assert event.A.sum(dim=-1).max() <= 1 + 1e-9


@pytest.mark.parametrize("at", [0, 3])  # the encoder's first, the decoder's last
def test_its_gradient_is_the_targets_slope(at: int) -> None:
    family = built("Deformable DETR")
    recording, calls = with_calls(family)
    event = sampled(recording, calls)[at]
    module, A = family.model.get_submodule(event.module), event.A.detach()
    change = torch.randn(A.shape, generator=torch.Generator().manual_seed(3), dtype=A.dtype) * (A != 0)

    def score(step: float) -> Tensor:
        def forward(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return ((A + step * change) @ value.transpose(1, 2)).transpose(1, 2).flatten(2)

        module.forward = forward
        with torch.no_grad():
            found = family.target(family.model(**family.inputs))
        del module.forward
        return found

    slope = (score(1e-5) - score(-1e-5)) / 2e-5
    along = (recording.gradients(family.target)[event].A * change).sum(dim=(1, 2, 3))
    torch.testing.assert_close(along, slope, rtol=1e-5, atol=1e-7)


def test_points_have_the_gradients_of_grid_sample() -> None:
    """On two grids, points at their borders and outside too."""
    generator, grids = torch.Generator().manual_seed(0), [(3, 4), (2, 1)]
    value, places, weights, slope = (
        torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((1, 14, 2, 3), (1, 5, 2, 2, 3, 2), (1, 5, 2, 2, 3), (1, 5, 2, 3))
    )
    points = places * 1.6 - 0.3
    mine = (sampled_map(weights, points, grids) @ value.transpose(1, 2)).transpose(1, 2)
    parts = [
        F.grid_sample(
            cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, grid),
            2 * points[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1,
            align_corners=False,
        )
        for level, (cells, grid) in enumerate(zip(value.split([12, 2], dim=1), grids, strict=True))
    ]
    heads = (torch.stack(parts, dim=-2) * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=(-1, -2))
    theirs = heads.unflatten(0, (1, 2)).permute(0, 3, 1, 2)
    torch.testing.assert_close(mine, theirs)
    found = (torch.autograd.grad(one, (value, places, weights), slope, retain_graph=True) for one in (mine, theirs))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_each_level_is_a_map_of_its_own_and_padding_has_none() -> None:
    family = built("Deformable DETR")
    relevance = explain(family.model, family.inputs, "genatt", family.target)
    grids = {"image": (8, 6), "image 2": (4, 3), "image 3": (2, 2)}
    assert {name: part.grid for name, part in relevance.modalities.items() if name != "queries"} == grids
    for name, grid in grids.items():
        real = F.interpolate(family.inputs["pixel_mask"][None].double(), size=grid)[0].flatten(1).bool()
        assert torch.equal(relevance[name].mask, real) and not relevance.scores[name][~real].any()


def test_levels_of_a_swin_lead_to_its_patches() -> None:
    """And queries that are chosen anew in every image are the same tokens."""
    family = built("Grounding DINO")
    adapter = derived(family.model, family.inputs)
    other = {**family.inputs, "pixel_values": family.inputs["pixel_values"].flip(0, 3)}
    assert derived(family.model, other) is adapter
    for inputs in (family.inputs, other):
        relevance = explain(family.model, inputs, "genatt", family.target)
        assert list(relevance.scores) == ["text", "image", "queries"] and relevance["image"].grid == (8, 8)
        alone = explain(family.model, {name: value[:1] for name, value in inputs.items()}, "genatt", family.target)
        for name, scores in alone.scores.items():
            torch.testing.assert_close(relevance.scores[name][:1], scores)
