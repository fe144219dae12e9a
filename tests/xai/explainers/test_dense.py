"""The methods of CLIP's own space: which models they take, and what they say of those they do not."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from xai import METHODS, adapter_for, explain, explain_recording, record, similarity
from xai.adapters import observed
from xai.adapters.clip import open_clip as open_clip_adapter
from xai.explainers.dense import direction, embedding, towers
from xai.explainers.head_contributions import contributions
from xai.explainers.table import CLIPS
from xai.explainers.text_span import text_span
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..conftest import Family, build, open_clip_model, prepared

DENSE = [name for name, method in METHODS.items() if method.models == CLIPS]
PATCHES = [name for name in DENSE if name != "head_contributions"]
FAMILIES = ("clip", "open_clip", "open_clip, two modules")


def recorded(family: Family, adapter: Any = None, **inputs: Any) -> Recording:
    with record(family.model, adapter or adapter_for(family.model)) as recorder:
        family.model(**(inputs or family.inputs))
    return recorder.recording


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_the_model_s_and_take_their_place(name: str) -> None:
    family = build(name)
    recording = recorded(family)
    output: Any = recording.output
    own = dict(
        zip(("image", "text"), output[:2] if name != "clip" else (output.image_embeds, output.text_embeds), strict=True)
    )
    found = towers(recording, "test")
    assert list(found) == ["image", "text"]
    for modality, tower in found.items():
        read = embedding(recording, similarity(), tower)
        torch.testing.assert_close(read, own[modality].detach())
        torch.testing.assert_close(similarity()(tower[0].said(read, output)), recording.score(similarity()))
        torch.testing.assert_close(
            (direction(recording, similarity(), tower) * read).sum(dim=1), recording.score(similarity()).detach()
        )


@pytest.mark.parametrize("method", DENSE)
@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_the_pairs_permutes_the_result(name: str, method: str) -> None:
    family = build(name)
    flipped = {name: tensor.flip(0) for name, tensor in family.inputs.items()}
    expected = explain(family.model, family.inputs, method, similarity()).scores
    found = explain(family.model, flipped, method, similarity()).scores
    for modality in expected:
        torch.testing.assert_close(found[modality].flip(0), expected[modality])
    assert expected["image"].any() and expected["text"].any() == (method == "head_contributions")


@pytest.mark.parametrize("method", DENSE)
def test_a_text_s_opposite_has_the_opposite_scores(method: str) -> None:
    recording = recorded(build("clip"))
    one = METHODS[method].function(recording, similarity())
    other = METHODS[method].function(recording, lambda output: -similarity()(output))
    torch.testing.assert_close(one, -other)


@pytest.mark.parametrize("method", DENSE)
def test_other_models_are_refused(method: str) -> None:
    family = build("vit")
    with pytest.raises(
        ValueError, match=rf"{method} reads .*CLIP of transformers .*CLIPModel.*open_clip .*similarity\(\)"
    ):
        explain(family.model, family.inputs, method, family.target)
    clip = recorded(build("clip"))
    rows = by_rows(clip, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=rf"{method} reads"):
        METHODS[method].function(rows, lambda output: similarity()(output)[torch.tensor([0, 1, 1])])


@pytest.mark.parametrize("method", DENSE)
def test_another_target_is_refused(method: str) -> None:
    recording = recorded(build("clip"))
    with pytest.raises(ValueError, match=r"read from \[0, 0\] tokens .* as similarity\(\)"):
        METHODS[method].function(recording, lambda output: output.text_model_output.last_hidden_state[:, 0, 0])


@pytest.mark.parametrize("method", DENSE)
def test_plain_softmax_is_refused(method: str) -> None:
    family = build("clip")
    family.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"module 'vision_model.*self_attn' does not show .*sdpa"):
        explain(family.model, family.inputs, method, similarity())


def altered(**vision: Any) -> Family:
    sizes = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8, **vision}
    text = {"context_length": 7, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
    return prepared(
        lambda: Family(
            open_clip.model.CLIP(embed_dim=8, vision_cfg=sizes, text_cfg=text),
            open_clip_model(open_clip.model.CLIP).inputs,
            similarity(),
        )
    )


@pytest.mark.parametrize("method", PATCHES)
def test_a_tower_that_reads_the_mean_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} is of patches, and the image of this pass has no class token"):
        METHODS[method].function(recorded(altered(pool_type="avg")), similarity())


@pytest.mark.parametrize("method", DENSE)
def test_a_learned_scale_of_the_layer_is_refused(method: str) -> None:
    recording = recorded(altered(ls_init_value=0.5))
    with pytest.raises(ValueError, match=r"resblocks.*does more to what it gives than one linear projection"):
        METHODS[method].function(recording, similarity())


def test_outputs_by_name_and_one_tower() -> None:
    family = build("open_clip")
    expected = METHODS["sclip"].function(recorded(family), similarity())
    family.model.output_dict = True
    torch.testing.assert_close(METHODS["sclip"].function(recorded(family), similarity()), expected)
    family.model.output_dict = False
    text = family.model.encode_text(family.inputs["text"], normalize=True).detach()

    def alone(output: Any) -> Tensor:
        return output[2] * (output[0] * text).sum(dim=-1)

    adapter = open_clip_adapter(family.model, towers=("image",))
    recording = recorded(family, adapter, image=family.inputs["image"])
    torch.testing.assert_close(METHODS["sclip"].function(recording, alone), expected[:, :5])
    with pytest.raises(ValueError, match="no 'text' whose embedding can be taken apart; the pass has image"):
        contributions(recording, "text")


def test_what_is_found_from_the_model_has_the_ends_of_its_table() -> None:
    family = build("clip")
    expected = METHODS["clip_surgery"].function(recorded(family), similarity())
    adapter = observed(family.model, family.inputs)
    assert adapter.places
    torch.testing.assert_close(METHODS["clip_surgery"].function(recorded(family, adapter), similarity()), expected)


def test_options_that_mean_nothing_are_refused() -> None:
    recording, texts = recorded(build("clip")), torch.eye(8).double()
    for method in ("clip_surgery", "head_contributions"):
        with pytest.raises(ValueError, match="last is 0"):
            explain_recording(recording, method, similarity(), last=0)
    with pytest.raises(ValueError, match="not both"):
        explain_recording(recording, "clip_surgery", similarity(), empty=texts[0], others=texts)
    for count in (0, 9):
        with pytest.raises(ValueError, match=f"count is {count} of 8 texts"):
            text_span(torch.randn(5, 8), texts, count)
    with pytest.raises(ValueError, match="outputs are all the same"):
        text_span(torch.ones(5, 8), texts, 1)


def test_text_span_finds_the_directions_in_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 5.0, 3.0, 0.0])
    outputs = torch.randn(50, 4, generator=generator) * sizes + 7  # the mean does not count
    found = text_span(outputs, torch.eye(4), 4)
    assert found.texts == [1, 2, 0]
    assert found.explained == sorted(found.explained) and found.explained[-1] == pytest.approx(1)
