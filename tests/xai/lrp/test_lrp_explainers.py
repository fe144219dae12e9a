"""The LRP explainers: samples do not see each other, options do what they say, no two methods are the same."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import EXPLAINERS, Relevance, adapter_for, difference, explain, explain_recording, given, record, similarity
from xai.explainers import METHODS
from xai.explainers.genatt_lrp import genatt_lrp
from xai.explainers.partial_lrp import partial_lrp
from xai.explainers.transatt import transatt
from xai.lrp.modified_gradient import ATTN_LRP
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances
from xai.recording.recording import Recording

from ..conftest import Family, build
from .streams import recorded_pass, target, two_streams

PLAIN_SOFTMAX = ("lxmert", "visualbert")  # they do not show the values that some methods need

LRP_EXPLAINERS = [name for name, method in METHODS.items() if method.start == "tokens"]
MANY = [name for name, method in METHODS.items() if method.passes == "many"]


def joint(result: Any) -> torch.Tensor:
    return torch.cat(list(result.scores.values()), dim=1)


def explained(family: Family, inputs: dict[str, Tensor]) -> dict[str, Relevance]:
    """By all methods, from one recording."""
    with record(family.model, adapter_for(family.model), "tokens") as recorder:
        family.model(**inputs)
    return {method: explain_recording(recorder.recording, method, given(1)) for method in LRP_EXPLAINERS}


def test_a_batch_is_its_samples_one_by_one(family: Family) -> None:
    """The sums of the add rule are by sample."""
    if family.target.name == "similarity" or family.target.name.startswith("query"):
        pytest.skip("the target's own index is of the batch")
    both = explained(family, family.inputs)
    for i in range(2):
        alone = explained(family, {name: x[i : i + 1] for name, x in family.inputs.items()})
        for method, result in alone.items():
            torch.testing.assert_close(joint(result), joint(both[method])[i : i + 1], rtol=1e-6, atol=1e-9)


def test_padding_changes_nothing(padded: Family) -> None:
    assert padded.shortened is not None
    both, alone = explained(padded, padded.inputs), explained(padded, padded.shortened(padded.inputs))
    for method, result in alone.items():
        for name, scores in result.scores.items():
            found = both[method].scores[name][1:]
            assert not found[:, scores.shape[1] :].any()
            torch.testing.assert_close(found[:, : scores.shape[1]], scores, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["vit", "bert", "lxmert", "visualbert", "detr", "open_clip", "clip"])
def test_methods_differ(name: str) -> None:
    family = build(name)
    with record(family.model, adapter_for(family.model), "tokens") as recorder:
        family.model(**family.inputs)
    left_out = {*MANY, *(("tokentm", "grad_eclip") if name in PLAIN_SOFTMAX else ())}
    methods = [method for method in (*EXPLAINERS, *LRP_EXPLAINERS) if method not in left_out]
    found = {method: joint(explain_recording(recorder.recording, method, family.target)) for method in methods}
    for one, other in combinations(found, 2):
        if {one, other} == {"transatt", "genatt_lrp"} and name not in ("lxmert", "detr"):
            continue  # theory: in one stream they are the same
        first, second = (found[m] / found[m].abs().amax(1, keepdim=True).clamp(min=1e-12) for m in (one, other))
        assert (first - second).abs().max() > 1e-3, (one, other)


def tape_of(name: str) -> tuple[Recording, Any]:
    family = build(name)
    with record(family.model, adapter_for(family.model), "tokens") as recorder:
        family.model(**family.inputs)
    return recorder.recording, family.target


def test_options_of_transatt() -> None:
    recording, goal = tape_of("vit")
    C, G = relevances(recording, goal, TRANSATT).A, recording.gradients(goal)
    first, last = recording.events
    eye = torch.eye(5).double()

    def change(event: Any, gradient: bool = True) -> torch.Tensor:
        return torch.stack([((G[event].A if gradient else 1) * C[event])[:, h].clamp(min=0) for h in range(2)]).mean(0)

    close = torch.testing.assert_close
    close(transatt(recording, goal), (change(last) + eye) @ (change(first) + eye))
    close(transatt(recording, goal, gradient=False), (change(last, False) + eye) @ (change(first, False) + eye))
    close(transatt(recording, goal, block=0), change(first))
    close(transatt(recording, goal, block=-1, gradient=False), change(last, False))
    close(transatt(recording, goal, last=1), change(last) + eye)
    close(transatt(recording, goal, normalise=True).sum(-1), torch.ones(2, 5).double())
    close(partial_lrp(recording, goal), C[last].mean(1))
    close(genatt_lrp(recording, goal), transatt(recording, goal))  # theory: in one stream they are the same
    with pytest.raises(ValueError, match="block is 2; this recording has 2 layers"):
        transatt(recording, goal, block=2)


def test_between_streams_transatt_shows_the_last_map() -> None:
    recording, goal = recorded_pass(two_streams()), target()
    C, G = relevances(recording, goal, TRANSATT).A, recording.gradients(goal)
    cross = recording.layers[1][0]
    R = transatt(recording, goal, block=1)
    torch.testing.assert_close(R[:, :4, 4:], (G[cross].A * C[cross]).clamp(min=0).mean(1))
    assert not R[:, :4, :4].any()


def test_gamma_changes_the_map_and_its_sum_does_not() -> None:
    family = build("bert")
    for parameter in (p for name, p in family.model.named_parameters() if name.endswith("bias")):
        torch.nn.init.zeros_(parameter)
    plain, gamma = (explain(family.model, family.inputs, "cp_lrp", given(1), gamma=g) for g in (0.0, 0.5))
    assert (joint(plain) - joint(gamma)).abs().max() > 1e-3
    for result in (plain, gamma):
        torch.testing.assert_close(joint(result).sum(1), family.model(**family.inputs).logits[:, 1].detach())


def test_a_contrast_is_the_difference_of_modified_gradients() -> None:
    recording, _ = tape_of("bert")
    one, other, both = (relevances(recording, t, ATTN_LRP).tokens for t in (given(0), given(2), difference(0, 2)))
    torch.testing.assert_close(both, one - other)


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_a_similarity_is_shared_by_both_towers(name: str) -> None:
    recording, _ = tape_of(name)
    tokens = relevances(recording, similarity(), TRANSATT).tokens
    for where in recording.modalities.values():
        torch.testing.assert_close(tokens[:, where].sum(1), torch.full((2,), 0.5).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "timm", "torchvision"])
def test_pixels(name: str) -> None:
    family = build(name)
    result = explain(family.model, family.inputs, "pixel_lrp", family.target)
    assert result["pixels"].grid == (16, 16) and result.map("pixels").shape == (2, 16, 16)
    with record(family.model, adapter_for(family.model), "pixels") as recorder:
        family.model(**family.inputs)
    found = relevances(recorder.recording, family.target, TRANSATT)
    assert found.pixels is not None and found.pixels.any()
    torch.testing.assert_close(result.scores["pixels"], found.pixels.flatten(1))
    torch.testing.assert_close(found.tokens, relevances(*tape_of(name), TRANSATT).tokens, rtol=1e-6, atol=1e-9)
    one = explain(family.model, {k: x[1:] for k, x in family.inputs.items()}, "pixel_lrp", given(2))
    torch.testing.assert_close(one.scores["pixels"], result.scores["pixels"][1:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "timm", "torchvision"])
def test_attn_lrp_of_the_pixels_is_the_gradient_times_them(name: str) -> None:
    """With the epsilon rule; with gamma the total stays, and what the patches' own tokens have is shared otherwise."""
    family = build(name)
    with record(family.model, adapter_for(family.model), "pixels") as recorder:
        family.model(**family.inputs)
    recording = recorder.recording
    assert recording.pixels is not None
    slope = recording.backward_by(ATTN_LRP, family.target, [recording.pixels])[1][0]
    plain, gamma = (
        explain_recording(recording, "attn_lrp_pixels", family.target, gamma_pixels=g).map("pixels")
        for g in (0.0, 0.25)
    )
    torch.testing.assert_close(plain, (recording.pixels.detach() * slope).sum(dim=1))
    assert (plain - gamma).abs().max() > 1e-3 * plain.abs().max()
    torch.testing.assert_close(
        explain(family.model, family.inputs, "attn_lrp_pixels", family.target).map("pixels"), gamma
    )
    tokens = explain_recording(recording, "attn_lrp", family.target).scores["image"]
    again = explain_recording(tape_of(name)[0], "attn_lrp", family.target).scores["image"]
    torch.testing.assert_close(tokens, again)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 100.0])
def test_relevance_is_kept_on_the_way_to_the_pixels(gamma: float) -> None:
    """Without biases and positions, what all patches have is what their pixels have, each patch by itself."""
    family = build("vit")
    for n, parameter in family.model.named_parameters():
        if n.endswith("bias") or "position" in n:
            torch.nn.init.zeros_(parameter)
    result = explain(family.model, family.inputs, "attn_lrp_pixels", family.target, gamma_pixels=gamma, check=1e-9)
    patches = explain(family.model, family.inputs, "attn_lrp", family.target).map("image")
    held = result.map("pixels").unflatten(1, (2, 8)).unflatten(3, (2, 8)).sum(dim=(2, 4))
    torch.testing.assert_close(held, patches)
    assert result.conservation is not None


def test_a_check_takes_the_gamma_that_the_method_has() -> None:
    """With what biases absorb, all that starts arrives: at the pixels, in constants, and at the class token."""
    family = build("vit")
    torch.nn.init.zeros_(family.model.vit.embeddings.cls_token)
    for options in ({}, {"gamma_pixels": 0.0}, {"gamma": 0.1, "gamma_pixels": 100.0}):
        result = explain(family.model, family.inputs, "attn_lrp_pixels", family.target, check=1e-9, **options)
        assert result.conservation is not None
        absorbed = sum(layer.absorbed + layer.lost for layer in result.conservation.layers)
        score = family.target(family.model(**family.inputs)).sum()
        assert float(result.scores["pixels"].sum()) + absorbed == pytest.approx(float(score))


@pytest.mark.parametrize("method", ["pixel_lrp", "attn_lrp_pixels"])
def test_pixels_need_a_recording_from_them(method: str) -> None:
    recording, goal = tape_of("vit")
    with pytest.raises(ValueError, match="lrp='pixels'"):
        explain_recording(recording, method, goal)


def test_in_double_precision_on_a_copy() -> None:
    family = build("bert")
    expected = explain(family.model, family.inputs, "full_lrp", family.target)
    family.model.float()
    for dtype in (torch.float64, None):
        found = explain(family.model, family.inputs, "full_lrp", family.target, dtype=dtype)
        assert found.scores["text"].dtype == (dtype or torch.float32)
        torch.testing.assert_close(found.scores["text"].double(), expected.scores["text"], rtol=0, atol=1e-2)
    assert next(family.model.parameters()).dtype == torch.float32
