"""Adapters found from the model itself: those of known families, and of families that have no table."""

import gc
import re
import weakref
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
from xai.explainers.algebra import rownorm
from xai.lrp.conservation import conservation
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP
from xai.lrp.positive import TRANSATT
from xai.recording.adapter import Adapter
from xai.recording.recording import Recording

from ..conftest import FAMILIES, Family, build, few_passes
from ..toys import snapshot
from .stock import FRAME_TOKEN, IMAGE_TOKEN, SAMPLED, SEEING, STOCK, TEXTS, WINDOWS, built


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


OTHERS = (
    "timm",
    "open_clip",
    "torchvision",
    "GIT",
    "ViTDet",
    "Swin",
    "SAM",
    "BLIP",
    "FLAVA",
    "SigLIP",
    "GPT-NeoX",
    "Falcon",
    "Data2Vec",
    "CaiT",
    *SAMPLED,
)
EAGER = [name for name in STOCK if name not in SEEING and not name.startswith(OTHERS)]


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


QWEN = [name for name in SEEING if name.startswith("Qwen")]  # put their windows together before they project
# models whose softmax is plain code show no queries and keys; GPT-2 and Falcon project by another function
PLAIN_SOFTMAX = (
    "Gemma 2",
    "DeBERTa v2",
    "MPNet",
    "BLOOM",
    "FLAVA",
    "ViLT",
    "BLIP retrieval",
    "BLIP captions",
    "BLIP questions",
    "GIT",
    "ViTDet",
    "CaiT",
    *SAMPLED,
    *(set(WINDOWS) - {"Swin"}),
)
REFUSED = (
    {name: {"grad_eclip", "tokentm"} for name in PLAIN_SOFTMAX}
    | {name: {"tokentm"} for name in ("GPT-2", "Falcon", *QWEN)}
    | {name: {"tokentm", "similarity"} for name in ("open_clip CoCa", "open_clip CoCa captions")}  # reads no states
)


@pytest.mark.parametrize("name", list(STOCK))
def test_every_method_or_a_refusal_that_names_the_module(name: str) -> None:
    family, recording = shown(name)
    for method in EXPLAINERS:
        if method in REFUSED.get(name, set()):
            with pytest.raises(ValueError, match="module '"):
                explain_recording(recording, method, family.target)
            continue
        try:
            relevance = explain_recording(recording, method, family.target, **few_passes(method))
        except ValueError as error:  # no other tokens stand in for those that attention cannot be turned away from
            assert method == "atman" and re.match("module '|tokens of '", str(error)), method
            continue
        scores = torch.cat(list(relevance.scores.values()), dim=1)
        mask = torch.cat([part.mask for part in relevance.modalities.values()], dim=1)
        assert scores.isfinite().all() and not scores[~mask].any(), method
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


UNRULED = {
    "BLIP questions": "cross_entropy in module 'text_decoder'",
    "OWL-ViT": "mul in the blocks multiplies two live tensors",
    "OWLv2": "mul in the blocks multiplies two live tensors",
    "Deformable DETR": "mul in module 'model.encoder.layers.0.self_attn.attn' multiplies two live tensors",
    "Grounding DINO": "group_norm in module 'model.input_proj_vision.0.1'",
}  # operations that have no rule for relevance


@pytest.mark.parametrize("name", list(UNRULED))
def test_an_operation_without_rule_is_named(name: str) -> None:
    with pytest.raises(PropagationError, match=re.escape(UNRULED[name])):
        shown(name, "tokens")


@pytest.mark.parametrize("name", [name for name in STOCK if name not in UNRULED])
def test_every_method_with_rules(name: str) -> None:
    family, recording = shown(name, "tokens")
    for method in (name for name, known in METHODS.items() if known.start == "tokens"):
        scores = torch.cat(list(explain_recording(recording, method, family.target).scores.values()), dim=1)
        assert scores.isfinite().all() and scores.any(), method
    for method in ("full_lrp", "attn_lrp", "cp_lrp"):  # a pass of these rules alone
        expected = explain_recording(recording, method, family.target).scores
        alone = explain_recording(found(family, lrp=METHODS[method].needs()), method, family.target).scores
        for modality, scores in expected.items():
            torch.testing.assert_close(alone[modality], scores, rtol=1e-7, atol=1e-10, msg=f"{method} of {modality}")


@pytest.mark.parametrize("name", list(STOCK))
def test_nothing_of_the_model_is_changed(name: str) -> None:
    stock = built(name)
    stock.model(**stock.inputs)  # a model of transformers may hang hooks on itself when it is first called
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


def by_hand(weights: list[Tensor], recording: Recording, family: Family, method: str) -> tuple[Tensor, list[Tensor]]:
    """Scores of all tokens of a language model, and of each image the scores of the patches its tokens are made from.

    From attention alone. `weights` are of all image tokens of the text, [tokens, those of the image]; the images of a sample
    are a batch of the model, none of which attends to another.
    """
    gradients = recording.gradients(family.target)
    language = recording.mask.shape[1]
    held: dict[int, Tensor] = {}
    for event in recording.events:
        A, last = event.A.detach(), event.queries.stop
        if last < language:
            count = A.shape[-1] // len(weights)
            assert not A[..., torch.block_diag(*[torch.ones(count, count)] * len(weights)) == 0].any()
        eye = torch.eye(A.shape[-1]).double()
        R = held.get(last, eye)
        if method == "rollout":
            held[last] = rownorm(A.mean(dim=1) + eye) @ R
        else:
            held[last] = R + (A * gradients[event].A).clamp(min=0).mean(dim=1) @ R
    rows = held.pop(language)[:, -1]
    inside = rows[:, family.inputs["input_ids"][0] >= FRAME_TOKEN]
    (R,) = held.values()
    return rows, list(((inside @ torch.cat(weights, dim=1))[:, None] @ R)[:, 0].chunk(len(weights), dim=1))


BLOCKS = torch.zeros(4, 16).double()  # 2 x 2 of 4 x 4
for cell in range(16):
    BLOCKS[cell // 8 * 2 + cell % 4 // 2, cell] = 0.25
# what image tokens are made from: patches, without a class token in front or with it
MADE = {
    "LLaVA": F.pad(torch.eye(16).double(), (1, 0)),
    "PaliGemma": torch.eye(16).double(),
    "Gemma 3 with images": BLOCKS,
    "InternVL": F.pad(BLOCKS, (1, 0)),
    "Idefics3": BLOCKS,
    "SmolVLM": BLOCKS,
    **{name: torch.eye(4).double().repeat_interleave(4, dim=1) / 4 for name in QWEN if "," not in name},
}
BLOCK_BY_BLOCK = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]  # as Qwen's processor has them


@pytest.mark.parametrize("method", ["rollout", "genatt"])
@pytest.mark.parametrize("name", list(MADE))
def test_image_tokens_inside_a_text_lead_to_the_patches(name: str, method: str) -> None:
    family = built(name)
    recording = found(family)
    words, (patches,) = by_hand([MADE[name]], recording, family, method)
    relevance = explain_recording(recording, method, family.target)
    assert list(relevance.scores) == ["image", "text"] and relevance["image"].grid == (4, 4)
    torch.testing.assert_close(relevance.scores["text"], words[:, family.inputs["input_ids"][0] != IMAGE_TOKEN])
    scores = relevance.scores["image"]
    if name in QWEN:
        scores = scores[:, BLOCK_BY_BLOCK]
    torch.testing.assert_close(scores, patches)


WITH_CLASS = F.pad(torch.eye(16).double(), (1, 0)).reshape(4, 4, 17)
PLAIN = torch.eye(16).double().reshape(4, 4, 16)
NONE = torch.zeros(4, 1, 17).double()  # the learned token at the end of each row of tiles
TILES = {
    "InternVL, three images": [F.pad(MADE["InternVL"], (0, 0, 4 * n, 8 - 4 * n)) for n in range(3)],
    "Idefics3, three images": [F.pad(BLOCKS, (0, 0, 4 * n, 8 - 4 * n)) for n in range(3)],
    "LLaVA-OneVision": [
        F.pad(torch.eye(16).double(), (0, 0, 0, 36)),
        F.pad(torch.cat([PLAIN, 0 * PLAIN, NONE[..., :16]], dim=1).flatten(0, 1), (0, 0, 16, 0)),
        F.pad(torch.cat([0 * PLAIN, PLAIN, NONE[..., :16]], dim=1).flatten(0, 1), (0, 0, 16, 0)),
    ],
    "LLaVA-NeXT": [
        F.pad(MADE["LLaVA"], (0, 0, 0, 36)),
        F.pad(torch.cat([WITH_CLASS, 0 * WITH_CLASS, NONE], dim=1).flatten(0, 1), (0, 0, 16, 0)),
        F.pad(torch.cat([0 * WITH_CLASS, WITH_CLASS, NONE], dim=1).flatten(0, 1), (0, 0, 16, 0)),
    ],
}


TILES |= {
    name: [F.pad(MADE["Qwen2-VL"], (0, 0, 4 * n, 4 * (count - 1 - n))) for n in range(count)]
    for name, count in (
        ("Qwen2-VL, three images", 3),
        ("Qwen2.5-VL, two images", 2),
        ("Qwen2-VL, video", 2),
        ("Qwen2.5-VL, video", 3),
        ("Qwen3-VL, video", 2),
    )
}


@pytest.mark.parametrize("method", ["rollout", "genatt"])
@pytest.mark.parametrize("name", list(TILES))
def test_several_images_of_a_sample_have_a_map_each(name: str, method: str) -> None:
    """And frames of a video, of which two are one patch."""
    family = built(name)
    words, images = by_hand(TILES[name], found(family), family, method)
    relevance = explain(family.model, family.inputs, method, family.target)
    kind = "frame" if "video" in name else "image"
    names = [kind, *(f"{kind} {n}" for n in range(2, len(images) + 1))]
    assert list(relevance.scores) == [*names, "text"]
    torch.testing.assert_close(relevance.scores["text"], words[:, family.inputs["input_ids"][0] < FRAME_TOKEN])
    for modality, wanted in zip(names, images, strict=True):
        scores = relevance.scores[modality]
        torch.testing.assert_close(scores[:, BLOCK_BY_BLOCK] if name in QWEN else scores, wanted)
        assert relevance.map(modality).shape == (1, 4, 4)


@pytest.mark.parametrize("method", ["input_gradient", "attn_lrp", "integrated_gradients"])
def test_of_several_images_each_has_its_own_gradient(method: str) -> None:
    """Exchanging two images of a sample exchanges their maps."""
    family = built("InternVL, three images")
    swapped = {**family.inputs, "pixel_values": family.inputs["pixel_values"][[1, 0, 2]]}
    adapter = derived(family.model, family.inputs)

    def both_alike(outputs: Any) -> Tensor:
        return outputs.image_hidden_states.square().sum().reshape(1)

    one, other = (explain(family.model, inputs, method, both_alike, adapter) for inputs in (family.inputs, swapped))
    torch.testing.assert_close(one.scores["image"], other.scores["image 2"])
    torch.testing.assert_close(one.scores["image 2"], other.scores["image"])
    torch.testing.assert_close(one.scores["image 3"], other.scores["image 3"])
    assert not torch.allclose(one.scores["image"], one.scores["image 2"])


def test_maps_of_blocks_are_row_by_row() -> None:
    """The gradient by the patches as they come, put where they are in the image."""
    family = built("Qwen2-VL")
    recording = found(family)
    slope = recording.gradients(family.target)[recording.events[0]].Y
    by_patch = (slope * recording.events[0].Y).sum(dim=-1)[0]
    picture = torch.zeros(16).double()
    picture[BLOCK_BY_BLOCK] = by_patch.detach()
    scores = explain(family.model, family.inputs, "input_gradient", family.target).map("image")
    torch.testing.assert_close(scores[0], picture.reshape(4, 4))


def test_an_image_at_another_place_of_the_text_is_another_structure() -> None:
    family, calls = built("InternVL"), []
    family.model.register_forward_pre_hook(lambda module, args: calls.append(1))
    ids = family.inputs["input_ids"]
    moved = {**family.inputs, "input_ids": ids[:, [0, *range(2, ids.shape[1]), 1]]}
    first, adapter = found(family), derived(family.model, family.inputs)
    assert len(calls) == 2
    assert explain(family.model, moved, "genatt", family.target).scores["text"].shape == (2, 5)
    assert len(calls) == 4 and derived(family.model, family.inputs) is adapter
    family.inputs = moved
    with pytest.raises(RecordingError, match="input_ids had other values when the adapter was found"):
        recorded(family, adapter)
    assert first.modalities["text"].tolist() == [17, 18, 23, 24, 25]


def test_images_at_different_places_are_refused() -> None:
    family = built("InternVL")
    ids = family.inputs["input_ids"]
    ids[1] = ids[1, [0, *range(2, ids.shape[1]), 1]]
    with pytest.raises(TypeError, match=r"other tokens in every sample .* images at other places of the text"):
        derived(family.model, family.inputs)


def test_layers_that_share_a_module_are_events_of_their_own() -> None:
    _, recording = shown("ALBERT")
    assert len({event.module for event in recording.events}) == 1 < len(recording.events)
    assert not torch.equal(recording.events[0].A, recording.events[1].A)


# TransAtt's positive rule gives nothing on where a layer has no positive contribution; the check of conservation says so
LOSES = (
    "BLIP retrieval",
    "T5",
    "BART",
    "DeBERTa v2",
    "Idefics3, three images",
    "MobileBERT",
    "SAM",
    "open_clip EVA-02",
    "ViTDet",
    "CaiT",
    *WINDOWS,
)  # padding has no contribution at all


@pytest.mark.parametrize("name", [name for name in STOCK if name not in UNRULED])
def test_no_layer_loses_relevance(name: str) -> None:
    family, recording = shown(name, "tokens")
    for rules in (TRANSATT, CP_LRP, ATTN_LRP):
        kept = conservation(recording, family.target, rules)
        if rules is TRANSATT and name in LOSES:
            with pytest.raises(PropagationError, match=r"most by (linear|matmul|einsum) in module"):
                kept.check(1e-6)
        else:
            kept.check(1e-5)  # RMSNorm of transformers computes in single precision
