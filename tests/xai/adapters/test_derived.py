"""Adapters found from the model itself: those of known families, and of families that have no table."""

import gc
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import (
    EXPLAINERS,
    METHODS,
    PropagationError,
    RecordingError,
    adapter_for,
    explain,
    explain_recording,
    given,
    record,
)
from xai.adapters.derived import derived
from xai.lrp.conservation import conservation
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP
from xai.lrp.positive import TRANSATT
from xai.recording.adapter import Adapter
from xai.recording.recording import Recording

from ..conftest import FAMILIES, Family, build, few_passes
from ..toys import snapshot
from .stock import STOCK, TEXTS, built


def recorded(family: Family, adapter: Adapter, **options: Any) -> Recording:
    with record(family.model, adapter, **options) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def found(family: Family, **options: Any) -> Recording:
    return recorded(family, derived(family.model, family.inputs), **options)


@cache
def shown(name: str, lrp: str | None = None) -> tuple[Family, Recording]:
    """A family and what is found of it, for tests that change neither."""
    family = built(name)
    return family, found(family, lrp=lrp)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_it_is_what_the_tables_say(name: str) -> None:
    """But for what no model shows: attentions that nothing reads, and that CLIP's text ends before its padding."""
    family = build(name)
    ours, theirs = found(family), recorded(family, adapter_for(family.model))
    reached = theirs.gradients(family.target)
    layers = [[event for event in layer if reached[event].reached] for layer in theirs.layers]
    assert [len(layer) for layer in ours.layers] == [len(layer) for layer in layers]
    for one, other in zip(ours.events, (event for layer in layers for event in layer), strict=True):
        for mine, wanted in ((one.A, other.A), (one.Y, other.Y), (one.Y_out, other.Y_out)):
            torch.testing.assert_close(mine, wanted)
    assert ours.modalities.keys() == theirs.modalities.keys() and ours.grids == theirs.grids
    for modality, where in theirs.modalities.items():
        if modality == "text" and "clip" in name:
            continue
        for mine, wanted in ((ours.mask, theirs.mask), (ours.special, theirs.special)):
            assert torch.equal(mine[:, ours.modalities[modality]], wanted[:, where]), modality
    read = ours.rows_of(family.target)
    for modality, where in theirs.modalities.items():
        assert torch.equal(read[:, ours.modalities[modality]], theirs.rows_of(family.target)[:, where])


@pytest.mark.parametrize("name", list(STOCK))
def test_outputs_are_those_of_the_model(name: str) -> None:
    family, recording = shown(name)
    with torch.no_grad():
        expected = family.target(family.model(**family.inputs))
    torch.testing.assert_close(family.target(recording.output).detach(), expected, atol=1e-8, rtol=1e-8)


def attentions_of(outputs: Any) -> list[Tensor]:
    """All that a model of transformers returns, in the order of its parts."""
    parts = [outputs[name] for name in ("vision_model_output", "text_model_output") if name in outputs]
    names = ("encoder_attentions", "attentions", "decoder_attentions", "cross_attentions")
    lists = [outputs[name] for name in names if outputs.get(name) is not None]
    return [attention for part in parts for attention in attentions_of(part)] + [a for one in lists for a in one]


EAGER = [name for name in STOCK if not name.startswith(("timm", "BLIP", "SigLIP", "GPT-NeoX", "Falcon", "Data2Vec"))]


@pytest.mark.parametrize("name", EAGER)
def test_rollout_and_genatt_are_those_of_the_model_s_own_attentions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "multinomial", lambda weights, number: torch.arange(len(weights))
    )  # ViLT's order of patches
    family = built(name)
    family.model.set_attn_implementation("eager")
    ours = found(family)
    outputs = family.model(**family.inputs, output_attentions=True)
    theirs = attentions_of(outputs)
    matched = [
        next(a for a in theirs if a.shape == e.A.shape and torch.allclose(a.to(e.A), e.A, atol=1e-5))
        for e in ours.events
    ]
    assert len({id(a) for a in matched}) == len(theirs) == len(matched)
    if any(
        (event.queries.stop, event.keys.stop) != (ours.mask.shape[1],) * 2 or not event.is_self for event in ours.events
    ):
        return  # between streams the formulas are those of the tables' tests
    gradients = torch.autograd.grad(family.target(outputs).sum(), matched)
    rollout = genatt = torch.eye(ours.mask.shape[1]).double().expand(2, -1, -1)
    for A, gradient in zip(matched, gradients, strict=True):
        mean = A.mean(dim=1) * ours.mask[..., None] + torch.eye(A.shape[-1])
        rollout = (mean / mean.sum(dim=-1, keepdim=True)) @ rollout
        genatt = genatt + (A * gradient).clamp(min=0).mean(dim=1) @ genatt
    torch.testing.assert_close(EXPLAINERS["rollout"](ours, family.target).double(), rollout, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(EXPLAINERS["genatt"](ours, family.target).double(), genatt, atol=1e-5, rtol=1e-5)


# models whose softmax is plain code show no queries and keys; GPT-2 and Falcon project by another function
PLAIN = ("Gemma 2", "DeBERTa v2", "MPNet", "ViLT", "BLIP retrieval", "BLIP captions")
REFUSED = {name: {"grad_eclip", "tokentm"} for name in PLAIN} | {name: {"tokentm"} for name in ("GPT-2", "Falcon")}


@pytest.mark.parametrize("name", list(STOCK))
def test_every_method_or_a_refusal_that_names_the_module(name: str) -> None:
    family, recording = shown(name)
    for method in EXPLAINERS:
        if method in REFUSED.get(name, set()):
            with pytest.raises(ValueError, match="module '"):
                explain_recording(recording, method, family.target)
            continue
        result = explain_recording(recording, method, family.target, **few_passes(method))
        scores = torch.cat(list(result.scores.values()), dim=1)
        assert scores.isfinite().all() and not scores[~recording.mask].any(), method
        if method not in ("attention_gradcam", "grad_eclip"):  # negative all over, their clamp leaves nothing
            assert scores.any(), method


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_padded_batch_is_its_samples_one_by_one(name: str) -> None:
    family = built(name)
    assert family.shortened is not None
    target = family.target if family.target.row or "given" not in family.target.name else given(2)
    short = family.shortened(family.inputs)
    for method in ("rollout", "genatt", "wra", "input_gradient"):
        together = explain(family.model, family.inputs, method, target).scores["text"]
        alone = explain(family.model, short, method, target).scores["text"]
        torch.testing.assert_close(together[1:, : alone.shape[1]], alone)
        assert not together[1:, alone.shape[1] :].any()


LEFT = ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi-3", "OPT")  # positions that are relative, or counted by the mask


@pytest.mark.parametrize("name", LEFT)
def test_padding_on_the_left(name: str) -> None:
    family = built(name)
    assert family.shortened is not None
    short = family.shortened(family.inputs)
    inputs = {
        k: torch.cat([v[:1], torch.cat([torch.zeros_like(v[:1, :2]), short[k]], dim=1)])
        for k, v in family.inputs.items()
    }

    def last(outputs: Any) -> Tensor:
        return outputs.logits[:, -1, 5]

    for method in ("rollout", "genatt", "wra"):
        together = explain(family.model, inputs, method, last).scores["text"]
        torch.testing.assert_close(together[1:, 2:], explain(family.model, short, method, last).scores["text"])
        assert not together[1:, :2].any()


@pytest.mark.parametrize("name", list(STOCK))
def test_every_method_with_rules(name: str) -> None:
    family, recording = shown(name, "tokens")
    for method in (name for name, known in METHODS.items() if known.start == "tokens"):
        scores = torch.cat(list(explain_recording(recording, method, family.target).scores.values()), dim=1)
        assert scores.isfinite().all() and scores.any(), method


@pytest.mark.parametrize("name", list(STOCK))
def test_nothing_of_the_model_is_changed(name: str) -> None:
    stock = built(name)
    before, versions = snapshot(stock.model), [p._version for p in stock.model.parameters()]
    values = {name: (value.clone(), value._version) for name, value in stock.inputs.items()}
    derived(stock.model, stock.inputs)
    assert snapshot(stock.model) == before and [p._version for p in stock.model.parameters()] == versions
    for name, (value, version) in values.items():
        assert torch.equal(value, stock.inputs[name]) and stock.inputs[name]._version == version
    assert not any(value.requires_grad for value in stock.inputs.values())


def test_nor_when_it_raises() -> None:
    family = built("Llama")
    before = snapshot(family.model)
    with pytest.raises((RuntimeError, IndexError)):
        derived(family.model, {**family.inputs, "input_ids": family.inputs["input_ids"] + 99})
    assert snapshot(family.model) == before and torch.is_grad_enabled()


def test_one_more_pass_for_each_structure_of_inputs() -> None:
    family, calls = built("OPT"), []
    family.model.register_forward_pre_hook(lambda module, args: calls.append(1))
    explain(family.model, family.inputs, "rollout", family.target)
    assert len(calls) == 2
    more = {**family.inputs, "input_ids": family.inputs["input_ids"].clamp(min=4)}
    explain(family.model, more, "genatt", family.target)
    assert len(calls) == 3
    explain(family.model, {name: value[:, :5] for name, value in more.items()}, "genatt", family.target)
    assert len(calls) == 5
    family.model.set_attn_implementation("eager")  # other calls of functions
    explain(family.model, more, "genatt", family.target)
    assert len(calls) == 7


def test_what_is_known_of_a_model_goes_with_it() -> None:
    family = built("ALBERT")
    derived(family.model, family.inputs)
    watched = weakref.ref(family.model)
    del family
    gc.collect()
    assert watched() is None


def test_inputs_of_another_length_are_refused_by_name() -> None:
    family = built("Llama")
    adapter = derived(family.model, family.inputs)
    family.inputs = {name: value[:, :5] for name, value in family.inputs.items()}
    with pytest.raises(
        RecordingError, match=r"5 tokens of text, .* with 7; find it anew .*adapter_for\(model, inputs\)"
    ):
        recorded(family, adapter)


def test_patches_chosen_by_a_mask_are_not_taken_for_others() -> None:
    family = built("ViLT")
    mask = torch.ones(2, 16, 16, dtype=torch.long)
    family.inputs["pixel_mask"] = mask
    adapter = derived(family.model, family.inputs)
    family.inputs["pixel_mask"] = mask.clone()
    family.inputs["pixel_mask"][1, :, 8:] = 0
    with pytest.raises(RecordingError, match="pixel_mask had other values when the adapter was found"):
        recorded(family, adapter)
    with pytest.raises(TypeError, match="other tokens in every sample"):
        derived(family.model, family.inputs)


def test_a_variant_that_its_table_does_not_know() -> None:
    family = built("timm SigLIP")
    with pytest.raises(ValueError, match="global_pool is 'map'"):
        adapter_for(family.model)
    result = explain(family.model, family.inputs, "genatt", family.target)
    assert list(result.scores) == ["image", "queries"] and result.map("image").shape == (2, 2, 2)


def test_streams_and_grids() -> None:
    expected = {
        "ViLT": {"text": 7, "image": 5},
        "SigLIP": {"image": 4, "queries": 1, "text": 7},
        "BLIP captions": {"image": 5, "text": 7},
        "T5": {"text": 7, "decoder": 7},
        "DINOv3": {"image": 7},
    }
    for name, lengths in expected.items():
        _, recording = shown(name)
        assert {n: where.stop - where.start for n, where in recording.modalities.items()} == lengths
        assert recording.grids == ({"image": (2, 2)} if "image" in lengths else {})
    special = recording.special[0].tolist()
    assert special == [True] * 3 + [False] * 4


def test_layers_that_share_a_module_are_events_of_their_own() -> None:
    _, recording = shown("ALBERT")
    assert len({event.module for event in recording.events}) == 1 < len(recording.events)
    assert not torch.equal(recording.events[0].A, recording.events[1].A)


# TransAtt's positive rule gives nothing on where a layer has no positive contribution; the check of conservation says so
LOSES = ("BLIP retrieval", "T5", "BART", "DeBERTa v2")


@pytest.mark.parametrize("name", list(STOCK))
def test_no_layer_loses_relevance(name: str) -> None:
    family, recording = shown(name, "tokens")
    for rules in (TRANSATT, CP_LRP, ATTN_LRP):
        kept = conservation(recording, family.target, rules)
        if rules is TRANSATT and name in LOSES:
            with pytest.raises(PropagationError, match=r"most by (linear|matmul) in module"):
                kept.check(1e-6)
        else:
            kept.check(1e-6)  # RMSNorm of transformers computes in single precision
