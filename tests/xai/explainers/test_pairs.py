"""Methods of pairs on models: what they refuse, and what squares of patches do."""

import pytest
import torch

from xai import METHODS, adapter_for, explain, given, record, similarity
from xai.explainers.exclip import exclip
from xai.explainers.fixlip import fixlip
from xai.games.towers import line, towers_of
from xai.recording.recording import Recording

from ..conftest import Family, build


def recorded_pass(family: Family) -> Recording:
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def test_exclip_is_for_two_towers() -> None:
    family = build("lxmert")
    with pytest.raises(ValueError, match="two towers that never read each other"):
        explain(family.model, family.inputs, "exclip", family.target)
    clip = build("clip")
    with pytest.raises(ValueError, match="exclip is for similarity"):
        explain(clip.model, clip.inputs, "exclip", lambda outputs: outputs.logits_per_image[:, 0])
    with pytest.raises(ValueError, match="steps is 0"):
        explain(clip.model, clip.inputs, "exclip", similarity(), steps=0)


def test_options_of_fixlip() -> None:
    family = build("clip")
    for wrong, message in (({"budget": 3}, "budget is 3"), ({"p": 1.0}, "p is 1.0")):
        with pytest.raises(ValueError, match=message):
            explain(family.model, family.inputs, "fixlip", family.target, **wrong)


def test_two_towers_are_told_by_their_attentions() -> None:
    clip, lxmert = build("clip"), build("lxmert")
    recording = recorded_pass(clip)
    assert towers_of(recording, similarity()) == (["image"], ["text"])
    assert towers_of(recording, lambda outputs: outputs.logits_per_image[:, 0]) is None
    assert towers_of(recorded_pass(lxmert), lxmert.target) is None


@pytest.mark.parametrize("name", ["clip", "open_clip"])
def test_few_masks_of_towers_agree_with_many_of_both(name: str) -> None:
    """The short cut and runs of the whole model estimate the same pairs."""
    family = build(name)
    recording = recorded_pass(family)
    exact = fixlip(recording, family.target, budget=64)
    drawn = fixlip(recording, family.target, budget=20, seed=1)
    image, text = recording.modalities["image"], recording.modalities["text"]
    one, other = (found[:, text, image].flatten() for found in (exact, drawn))
    assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.8


def test_a_square_shares_its_pairs_equally() -> None:
    family = build("clip")
    recording = recorded_pass(family)
    found = fixlip(recording, family.target, budget=64, block=2)  # 2 x 2 patches: one square
    image, text = recording.modalities["image"], recording.modalities["text"]
    pairs = found[:, text, image][:, :, 1:]
    assert pairs.any() and torch.allclose(pairs, pairs[..., :1].expand(pairs.shape))
    patches = found[:, image, image][:, 1:, 1:]
    assert torch.equal(patches, patches.diagonal(dim1=1, dim2=2).diag_embed())


def test_one_modality_has_pairs_of_its_own() -> None:
    family = build("bert")
    relevance = explain(family.model, family.inputs, "fixlip", given(1))
    values = explain(family.model, family.inputs, "banzhaf", given(1)).scores["text"]
    assert relevance.between("text", "text").any()
    torch.testing.assert_close(relevance.scores["text"], values)


def test_a_similarity_that_is_no_product_is_refused() -> None:
    products = torch.linspace(0, 1, 5)
    scale, offset = line(products, 3 * products - 1)
    assert (float(scale), float(offset)) == (pytest.approx(3), pytest.approx(-1))
    with pytest.raises(ValueError, match="no product of the features"):
        line(products, products**2)
    with pytest.raises(ValueError, match="all products of features are the same"):
        line(torch.ones(3), torch.ones(3))


def test_samples_do_not_see_each_other() -> None:
    """Of two towers a batch is explained as each pair alone."""
    family = build("clip")
    recording = recorded_pass(family)
    alone = recorded_pass(Family(family.model, {k: v[1:] for k, v in family.inputs.items()}, family.target))
    for method, options in ((fixlip, {"budget": 20}), (exclip, {"steps": 3})):
        torch.testing.assert_close(
            method(recording, similarity(), **options)[1:], method(alone, similarity(), **options)
        )


def test_the_facts_of_methods_of_pairs() -> None:
    assert {name for name, method in METHODS.items() if method.pairs} == {"interaction", "fixlip", "exclip"}


@pytest.mark.parametrize("name", ["clip", "bert"])
def test_a_text_of_one_word_and_one_of_none(name: str) -> None:
    """Whoever has no partner has no pairs; a sample without any content has no scores at all."""
    family = build(name)
    ids = family.inputs["input_ids"]
    ids[1, 1:] = 0
    ids[1, 1] = 39 if name == "clip" else 5
    if name == "bert":
        family.inputs["attention_mask"] = (ids > 0).long()
    relevance = explain(family.model, family.inputs, "fixlip", family.target, budget=64)
    pairs = relevance.between("text", "image" if name == "clip" else "text")
    assert pairs.isfinite().all() and pairs[0].any()
    if name == "clip":
        assert not pairs[1].any() and relevance.scores["image"][1].any()
    else:
        assert int((pairs[1] != 0).sum()) <= 4
