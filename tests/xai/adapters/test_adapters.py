"""Every family as its library ships it."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from torch import Tensor, nn

from xai import (
    EXPLAINERS,
    Layout,
    RecordingError,
    adapter_for,
    detection,
    explain,
    explain_recording,
    given,
    predicted,
    record,
    similarity,
)
from xai.adapters.clip import open_clip as open_clip_adapter
from xai.explainers.algebra import readout_weights

from ..conftest import TINY, Family, build, few_passes, pixels


def floats(output: Any) -> list[Tensor]:
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    return [value for value in values if isinstance(value, Tensor)]


def refused(method: str, family: Family) -> bool:
    """What needs queries, keys and values is refused for models whose softmax is plain code; a test of its own sees to that."""
    plain = ("VisualBertForQuestionAnswering", "LxmertForQuestionAnswering")
    return method in ("grad_eclip", "tokentm") and type(family.model).__name__ in plain


def test_outputs_are_those_of_the_model(family: Family) -> None:
    with torch.no_grad():
        expected = floats(family.model(**family.inputs))
    with record(family.model, adapter_for(family.model)):
        found = floats(family.model(**family.inputs))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-10, rtol=1e-10)


def test_attention_goes_to_the_real_tokens_and_to_no_others(family: Family) -> None:
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    for event in recorder.recording.events:
        torch.testing.assert_close(event.A.sum(-1), torch.ones_like(event.A[..., 0]))
        of_clip = family.target.name == "similarity"  # CLIP's text attends to padding from padding only
        if not of_clip:
            assert torch.equal((event.A > 0).any(dim=1).any(dim=1), recorder.recording.mask[:, event.keys])


def test_what_the_head_reads(family: Family) -> None:
    """The last event of each stream reaches the target only by the rows that the adapter says are read."""
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    recording = recorder.recording
    gradients = recording.gradients(family.target)
    read = (recording.readout if family.target.row is None else readout_weights(recording, family.target)) != 0
    streams = {
        (event.queries.start, event.queries.stop): event for event in recording.events if gradients[event].reached
    }
    last = [event for event in streams.values() if read[:, event.queries].any()]
    assert last
    for event in last:
        reached = gradients[event].Y_out.abs().amax(-1) > 0
        assert torch.equal(reached, read[:, event.queries])


def test_every_method_explains_every_family(family: Family) -> None:
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    for method in EXPLAINERS:
        if refused(method, family):
            continue
        result = explain_recording(recorder.recording, method, family.target, **few_passes(method))
        assert list(result.scores) == list(recorder.recording.modalities)
        for name, scores in result.scores.items():
            assert scores.isfinite().all() and not scores[~result[name].mask].any()
        if method not in ("attention_gradcam", "grad_eclip"):  # negative all over, their clamp leaves nothing
            assert any(scores.any() for scores in result.scores.values())


def test_attention_is_the_library_s_own() -> None:
    family = build("bert")
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    family.model.set_attn_implementation("eager")
    theirs = family.model(**family.inputs, output_attentions=True).attentions
    for event, attention in zip(recorder.recording.events, theirs, strict=True):
        torch.testing.assert_close(event.A, attention)


@pytest.mark.parametrize("name", ["vit", "bert", "clip", "detr"])
def test_eager_and_sdpa_agree(name: str) -> None:
    family = build(name)
    expected = explain(family.model, family.inputs, "genatt", family.target).scores
    family.model.set_attn_implementation("eager")
    found = explain(family.model, family.inputs, "genatt", family.target).scores
    for modality in expected:  # eager ViT and CLIP compute their softmax in float32
        torch.testing.assert_close(found[modality].double(), expected[modality], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [name for name in EXPLAINERS if name != "random"])
def test_a_batch_is_its_samples_one_by_one(padded: Family, method: str) -> None:
    if refused(method, padded):
        pytest.skip("its softmax in plain code shows no values")
    assert padded.shortened is not None
    options = few_passes(method)
    together = explain(padded.model, padded.inputs, method, given(1), **options)
    alone = explain(padded.model, padded.shortened(padded.inputs), method, given(1), **options)
    for name, scores in alone.scores.items():
        length = scores.shape[1]
        torch.testing.assert_close(together.scores[name][1:, :length], scores)
        assert not together.scores[name][1, length:].any()


def test_permuting_the_batch_permutes_the_result(family: Family) -> None:
    flipped = {name: tensor.flip(0) for name, tensor in family.inputs.items()}
    targets = {"similarity": similarity(), "query [0, 2]": detection(1, 0)}
    target = targets.get(family.target.name, predicted())
    expected = explain(family.model, family.inputs, "wra", target).scores
    found = explain(family.model, flipped, "wra", target).scores
    for name in expected:
        torch.testing.assert_close(found[name].flip(0), expected[name])


def test_base_models_have_adapters_too() -> None:
    model = tf.ViTModel(build("vit").model.config).double().eval()
    target = lambda output: output.pooler_output[:, 0]  # noqa: E731
    assert explain(model, {"pixel_values": pixels().double()}, target=target).scores["image"].shape == (2, 5)


def test_one_tower_of_clip() -> None:
    family = build("open_clip")
    image = family.inputs["image"]
    adapter = open_clip_adapter(family.model, towers=("image",))
    result = explain(family.model, {"image": image}, "genatt", lambda output: output[0][:, 0], adapter=adapter)
    assert list(result.scores) == ["image"]


def test_lxmert_whose_first_layer_is_cross_attention() -> None:
    from ..conftest import lxmert_model

    family = lxmert_model(language=0)
    result = explain(family.model, family.inputs, "genatt", family.target)
    assert all(scores.isfinite().all() for scores in result.scores.values())
    assert result.scores["regions"].any()


def test_unknown_models_are_refused() -> None:
    swin = tf.SwinForImageClassification(
        tf.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    )
    with pytest.raises(TypeError, match=r"no adapter for SwinForImageClassification: give inputs .* or write one"):
        adapter_for(swin)
    with pytest.raises(TypeError, match="Linear"):
        explain(nn.Linear(2, 2), torch.ones(1, 2))


class Inside(nn.Module):
    """A user's own module around a known model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = model


def test_wrapped_models() -> None:
    family = build("vit")
    wanted = explain(family.model, family.inputs, "wra", given(0)).scores["image"]
    averaged = torch.optim.swa_utils.AveragedModel(family.model)
    for wrapper in (
        nn.DataParallel(family.model),
        torch.compile(family.model, backend="eager"),
        nn.DataParallel(averaged),
    ):
        assert torch.equal(explain(wrapper, family.inputs, "wra", given(0)).scores["image"], wanted)
    with pytest.raises(
        TypeError, match=r"DataParallel wraps the model to explain: give the model inside, `model\.module`"
    ):
        adapter_for(nn.DataParallel(family.model))
    with pytest.raises(TypeError, match=r"no adapter for Inside: .* `model\.encoder` has one"):
        adapter_for(Inside(family.model))


def test_a_detector_with_a_mask_head_is_its_detector() -> None:
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=stages
    )
    sizes = {"d_model": 256, "num_queries": 2, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24}
    config = tf.DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, **sizes
    )  # its mask head wants 256
    model, inputs = tf.DetrForSegmentation(config).eval(), {"pixel_values": torch.randn(1, 3, 64, 64)}
    inside = explain(model.detr, inputs, "genatt", detection(0)).scores["image"]
    assert torch.equal(explain(model, inputs, "genatt", detection(0)).scores["image"], inside)


@pytest.mark.parametrize("name", ["lxmert", "visualbert"])
@pytest.mark.parametrize("left", [{}, {"input_ids": None}])
def test_embeddings_in_place_of_ids(name: str, left: dict[str, None]) -> None:
    family = build(name)
    words = next(
        part for part in family.model.modules() if isinstance(part, nn.Embedding) and part.num_embeddings == 40
    )
    inputs: dict[str, Any] = {key: value for key, value in family.inputs.items() if key != "input_ids"} | left
    inputs["inputs_embeds"] = words(family.inputs["input_ids"]).detach()
    wanted = explain(family.model, family.inputs, "wra", given(1)).scores
    for modality, scores in explain(family.model, inputs, "wra", given(1)).scores.items():
        torch.testing.assert_close(scores, wanted[modality])


def test_multiple_choice_is_refused() -> None:
    model = tf.BertForMultipleChoice(tf.BertConfig(vocab_size=40, **TINY))
    with pytest.raises(ValueError, match=r"input_ids has shape \[1, 3, 6\].* A model for multiple choice"):
        explain(model, {"input_ids": torch.ones(1, 3, 6, dtype=torch.long)}, "wra", given(0))


def test_images_and_texts_must_be_pairs() -> None:
    family = build("clip")
    inputs = {**family.inputs, "pixel_values": family.inputs["pixel_values"][:1]}
    with pytest.raises(RecordingError, match=r"a batch of 2 of text, .* one of 1. Images and texts must be pairs"):
        explain(family.model, inputs, "wra", lambda out: out.logits_per_image[:, 1])


def test_the_query_that_a_target_reads_is_found() -> None:
    family = build("detr")
    by_name = explain(family.model, family.inputs, "genatt", detection(1, 0))
    by_gradient = explain(family.model, family.inputs, "genatt", lambda output: output.logits[:, 1, 0])
    assert torch.equal(by_name.scores["image"], by_gradient.scores["image"])
    with pytest.raises(ValueError, match="detection"):
        explain(family.model, family.inputs, "rollout", lambda output: output.logits[:, 0, 0].detach())


# patches of 8 in 16 x 16 pixels lie 2 x 2; the words are [CLS] five others [SEP] and [CLS] three others [SEP] two of padding
PREFIX = {"deit": 2, "timm, distilled": 2, "dinov2 with registers": 5}
TEXT = [[True, *[False] * 5, True], [True, *[False] * 3, True, False, False]]


def test_grids_and_special_tokens(family: Family, request: pytest.FixtureRequest) -> None:
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    recording, name = recorder.recording, request.node.callspec.params["family"]
    special = {modality: recording.special[:, where] for modality, where in recording.modalities.items()}
    if name == "detr":
        assert recording.grids == {"image": (4, 3)}
        assert special["queries"].all() and not special["image"].any()
        return
    if "image" in special:
        assert recording.grids == {"image": (2, 2)}
        assert special["image"].tolist() == [[True] * PREFIX.get(name, 1) + [False] * 4] * 2
    if "text" in special:
        assert special["text"].tolist() == TEXT
    if "regions" in special:
        assert not special["regions"].any()


WIDE = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2 with registers", "clip"])
def test_the_grid_is_that_of_the_pixels(name: str) -> None:
    family = build(name)
    inputs = {**family.inputs, "pixel_values": WIDE.double(), "interpolate_pos_encoding": True}
    if name.startswith("dinov2"):  # interpolates without being asked
        del inputs["interpolate_pos_encoding"]
    assert explain(family.model, inputs, "rollout", family.target)["image"].grid == (2, 3)


@pytest.mark.parametrize(("height", "grid"), [(16, (2, 3)), (20, (3, 3))])
def test_the_grid_of_timm_with_any_size(height: int, grid: tuple[int, int]) -> None:
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.models.vision_transformer.VisionTransformer(
        **size, reg_tokens=2, dynamic_img_size=True, dynamic_img_pad=True
    )
    result = explain(model, torch.randn(1, 3, height, 24), "rollout")
    assert result["image"].grid == grid
    assert result["image"].special.sum() == 3


def test_separators_between_two_texts_are_special() -> None:
    family = build("bert")
    ids = torch.tensor([[2, 7, 8, 3, 9, 3, 0]])
    expected = [[True, False, False, True, False, True, False]]
    result = explain(family.model, {"input_ids": ids, "attention_mask": (ids > 0).long()}, "rollout", given(0))
    assert result["text"].special.tolist() == expected
    embedded = {"inputs_embeds": family.model.bert.embeddings.word_embeddings(ids), "attention_mask": (ids > 0).long()}
    expected[0][3] = False  # without ids nobody knows
    assert explain(family.model, embedded, "rollout", given(0))["text"].special.tolist() == expected


def test_a_grid_that_does_not_fit_is_an_error() -> None:
    family = build("vit")
    known = adapter_for(family.model)

    def layout(inputs: Any, sizes: Any) -> Layout:
        return replace(known.layout(inputs, sizes), grids={"image": (3, 2)})

    with pytest.raises(RecordingError, match=r"'image' has 4 tokens that are not special.* grid of 3 x 2"):
        explain(family.model, family.inputs, adapter=replace(known, layout=layout))
