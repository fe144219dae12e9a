"""Attention in windows: rollout and GenAtt from the model's own probabilities, written out cell by cell on the grid."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai import explain, given, record
from xai.adapters.derived import derived
from xai.explainers.algebra import rownorm

from ..conftest import few_passes
from .stock import IMAGE_TOKEN, WINDOWS, built

SIDE, MERGED, WINDOW = 7, 4, 3  # of the patches, of the tokens made from 2 x 2 of them, and of a window


class Softmaxes(TorchFunctionMode):
    """The results of all softmaxes that a model computes."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (F.softmax, torch.softmax, Tensor.softmax):
            self.results.append(result)
        return result


def cells(side: int, shift: int, rolled_first: bool) -> list[list[int]]:
    """The cell of the grid that each place of each window holds, -1 for padding; `rolled_first`: before the border is padded."""
    padded = -(-side // WINDOW) * WINDOW

    def source(place: int) -> int:
        if rolled_first:
            return (place + shift) % side if place < side else -1
        at = (place + shift) % padded
        return at if at < side else -1

    windows = []
    for top in range(0, padded, WINDOW):
        for left in range(0, padded, WINDOW):
            places = [(source(top + i), source(left + j)) for i in range(WINDOW) for j in range(WINDOW)]
            windows.append([-1 if min(place) < 0 else place[0] * side + place[1] for place in places])
    return windows


def written_out(parts: Tensor, windows: list[list[int]], tokens: int) -> Tensor:
    """Of windows [B n, H, w, w], on the whole grid [B, H, T, T]."""
    apart = parts.unflatten(0, (-1, len(windows)))
    whole = torch.zeros(len(apart), parts.shape[1], tokens, tokens, dtype=parts.dtype)
    for n, window in enumerate(windows):
        for i, query in enumerate(window):
            for j, key in enumerate(window):
                if query >= 0 and key >= 0:
                    whole[:, :, query, key] = apart[:, n, :, i, j]
    return whole


def maps(grids: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Rollout and GenAtt of attention maps and their gradients on one grid."""
    rollout = genatt = torch.eye(grids[0][0].shape[-1]).double()
    for A, gradient in grids:
        rollout = rownorm(A.mean(dim=1) + torch.eye(A.shape[-1])) @ rollout
        genatt = genatt + (A * gradient).clamp(min=0).mean(dim=1) @ genatt
    return rollout, genatt


def merging() -> Tensor:
    """[16, 49]: each merged token is of the 2 x 2 patches under it, fewer at the border, in equal parts."""
    weights = torch.zeros(MERGED**2, SIDE**2).double()
    for row in range(SIDE):
        for column in range(SIDE):
            weights[row // 2 * MERGED + column // 2, row * SIDE + column] = 1
    return rownorm(weights)


BY_HAND = [*WINDOWS, "SAM", "ViTDet", "Qwen2.5-VL, windows"]


@pytest.mark.parametrize("name", list(WINDOWS))
def test_windows_are_written_out_on_the_grid(name: str) -> None:
    family = built(name)
    for parameter in family.model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.3)  # padding has keys of its own then
    if hasattr(family.model, "set_attn_implementation"):
        family.model.set_attn_implementation("eager")
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if name == "Swin" else {}  # whose eager softmax is in single precision
    with Softmaxes() as softmaxes:
        output = family.model(**family.inputs)
    slopes = torch.autograd.grad(family.target(output).sum(), softmaxes.results)
    stages = []
    for side, blocks in ((SIDE, slice(0, 2)), (MERGED, slice(2, 4))):
        grids = []
        for shift, A, slope in zip((0, 1), softmaxes.results[blocks], slopes[blocks], strict=True):
            if name == "Swin v2" and side == MERGED:
                shift = 0  # it counts 7 // 2 cells there, no more than a window has
            windows = cells(side, shift, rolled_first=name.startswith("timm"))
            grids.append(tuple(written_out(part.detach().double(), windows, side**2) for part in (A, slope)))
        stages.append(maps(grids))
    for method, of_patches, of_merged in zip(("rollout", "genatt"), *stages, strict=True):
        wanted = of_merged.mean(dim=1, keepdim=True) @ merging() @ of_patches  # the head reads the mean of all tokens
        relevance = explain(family.model, family.inputs, method, family.target)
        assert list(relevance.scores) == ["image"] and relevance["image"].grid == (SIDE, SIDE)
        torch.testing.assert_close(relevance.scores["image"].double(), wanted[:, 0], **tolerance)
    if name.startswith("Swin"):  # they return the last attention of each stage
        for ours, theirs in zip(
            softmaxes.results[1::2], family.model(**family.inputs, output_attentions=True).attentions, strict=True
        ):
            torch.testing.assert_close(ours, theirs.to(ours), **tolerance)


@pytest.mark.parametrize("name", ["SAM", "ViTDet"])
def test_windows_and_the_whole_grid_by_turns(name: str) -> None:
    """Heads and windows are one axis of the softmax in plain code."""
    family = built(name)
    eager = type(family.model)._from_config(copy.deepcopy(family.model.config), attn_implementation="eager")
    eager.double().eval().load_state_dict(family.model.state_dict())
    with Softmaxes() as softmaxes:
        output = eager(**family.inputs)
    slopes = torch.autograd.grad(family.target(output).sum(), softmaxes.results)
    grids = []
    for parts in zip(softmaxes.results, slopes, strict=True):
        inside, whole = cells(SIDE, 0, rolled_first=False), [list(range(SIDE**2))]
        windows = whole if parts[0].shape[-1] == SIDE**2 else inside
        grids.append(
            tuple(written_out(part.detach().double().unflatten(0, (-1, 2)), windows, SIDE**2) for part in parts)
        )
    for method, wanted in zip(("rollout", "genatt"), maps(grids), strict=True):
        for model in (eager, family.model):
            scores = explain(model, family.inputs, method, family.target).scores["image"]
            torch.testing.assert_close(scores.double(), wanted.mean(dim=1), atol=1e-5, rtol=1e-5)


def test_windows_that_are_calls_of_their_own() -> None:
    """Qwen2.5-VL: 3 x 5 blocks of 2 x 2 patches; windows of 2 x 2 blocks one after the other, those at the border smaller."""
    family = built("Qwen2.5-VL, windows")
    with Softmaxes() as softmaxes, record(family.model, derived(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    seen = [A for event in recorder.recording.events for A in event.in_graph.A]
    slopes = torch.autograd.grad(family.target(recorder.recording.output).sum(), seen, retain_graph=True)
    windows = [
        [
            (2 * row + i) * 10 + 2 * column + j
            for row in range(top, min(top + 2, 3))
            for column in range(left, min(left + 2, 5))
            for i in range(2)
            for j in range(2)
        ]
        for top in (0, 2)
        for left in (0, 2, 4)
    ]
    assert [A.shape[-1] for A in seen[:7]] == [*map(len, windows), 60] and len(softmaxes.results) == len(seen) == 9
    apart, whole = [], [[cell for window in windows for cell in window]]
    for parts in (seen, slopes):
        laid = [written_out(part.detach(), [window], 60) for part, window in zip(parts[:6], windows, strict=False)]
        apart.append((sum(laid), written_out(parts[6].detach(), whole, 60)))
    blocks = torch.zeros(15, 60).double()
    for cell in range(60):
        blocks[cell // 20 * 5 + cell % 10 // 2, cell] = 0.25
    of_patches = maps(list(zip(*apart, strict=True)))
    of_words = maps([(A.detach(), slope) for A, slope in zip(seen[7:], slopes[7:], strict=True)])
    inside = family.inputs["input_ids"][0] == IMAGE_TOKEN
    for method, patches, words in zip(("rollout", "genatt"), of_patches, of_words, strict=True):
        relevance = explain(family.model, family.inputs, method, family.target)
        assert relevance["image"].grid == (6, 10)
        torch.testing.assert_close(relevance.scores["text"], words[:, -1, ~inside])
        torch.testing.assert_close(relevance.scores["image"], (words[:, -1:, inside] @ blocks @ patches)[:, 0])


@pytest.mark.parametrize("name", ["Swin", "timm Swin v2"])
def test_samples_of_a_batch_are_explained_as_alone(name: str) -> None:
    family = built(name)
    second = {key: value[1:] for key, value in family.inputs.items()}
    for method in ("rollout", "genatt", "wra", "attention_gradcam", "legrad", "smoothgrad", "attn_lrp", "transatt"):
        options = few_passes(method)
        together = explain(family.model, family.inputs, method, given(2), **options).scores["image"]
        alone = explain(family.model, second, method, given(2), **options).scores["image"]
        torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("name", list(WINDOWS))
def test_the_one_patch_that_differs_from_zero_has_all(name: str) -> None:
    """Without biases all other embeddings are zero, and so is what gradient and relevance say of them."""
    family = built(name)
    for label, parameter in family.model.named_parameters():
        if label.endswith("bias"):
            nn.init.zeros_(parameter)
    (argument,) = family.inputs
    images = torch.zeros_like(family.inputs[argument])
    images[:, :, 4:6, 10:12] = family.inputs[argument][:, :, 4:6, 10:12]
    for method in ("input_gradient", "integrated_gradients", "attn_lrp"):
        options = {"baseline": "zero", "steps": 2} if method == "integrated_gradients" else {}
        scores = explain(family.model, {argument: images}, method, family.target, **options).map("image")
        assert (scores.nonzero()[:, 1:] == torch.tensor([2, 5])).all() and scores[:, 2, 5].all()


def test_a_mask_of_minus_a_hundred_hides_a_key() -> None:
    """Swin's shifted windows: what exp(-100) leaves counts as nothing, and so does its gradient for LeGrad."""
    family = built("Swin")
    with record(family.model, derived(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    shifted = recorder.recording.events[1]
    assert shifted.windows is not None
    raw = shifted.in_graph.A[0]
    assert ((raw > 0) & (raw < 1e-40)).any() and not ((shifted.A > 0) & (shifted.A < 1e-30)).any()
    # the last window of the shifted grid holds corners of the image that are no neighbours: each attends to its own alone
    assert not shifted.A[:, :, SIDE**2 - 1, 0].any() and shifted.A[:, :, SIDE**2 - 1, SIDE**2 - 1].all()
