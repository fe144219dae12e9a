"""A recording of what a method reads gives it what a recording of everything does, and holds no more."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import METHODS, adapter_for, explain_recording, given, record
from xai.explainers.rollout import rollout
from xai.explanation import explain, record_for
from xai.lrp.mode import PropagationError
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.relevances import relevances
from xai.recording.assemble import RecordingError
from xai.recording.reads import EVERYTHING, Reads, reads, together
from xai.recording.recording import Recording

from ..adapters.stock import built
from ..conftest import FAMILIES, Family, build, few_passes

MODELS = ("vit", "open_clip", "lxmert", "detr", "T5", "Swin", "LLaVA", "timm SigLIP")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "rollout": [{"last": 1}],
    "genatt": [{"last": 1}, {"backward": "libra"}],
    "wra": [{"last": 2}],
    "legrad": [{"last": 1}, {"backward": "attn_lrp"}],
    "attcat": [{"last": 1}],
    "grad_eclip": [{"last": 2}],
}


def recorded(family: Family, wanted: Reads | None) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs), wanted) as recorder:
        family.model(**family.inputs)
    return recorder.recording


@pytest.mark.parametrize("name", MODELS)
def test_a_method_finds_the_same_in_what_it_reads(name: str) -> None:
    family = build(name) if name in FAMILIES else built(name)
    whole, compared = {}, set()
    for method, known in METHODS.items():
        for options in [few_passes(method), *OPTIONS.get(method, [])]:
            wanted = known.needs(options)
            if wanted == replace(EVERYTHING, lrp=wanted.lrp):
                continue
            try:
                if wanted.lrp not in whole:
                    whole[wanted.lrp] = recorded(family, replace(EVERYTHING, lrp=wanted.lrp))
                expected = explain_recording(whole[wanted.lrp], method, family.target, **options)
            except (ValueError, RecordingError, PropagationError):  # not for this model
                continue
            found = explain_recording(recorded(family, wanted), method, family.target, **options)
            for modality, scores in expected.scores.items():
                torch.testing.assert_close(
                    found.scores[modality], scores, rtol=1e-9, atol=1e-12, msg=f"{method} {options}"
                )
            compared.add(method)
    assert compared >= {"raw_attention", "rollout", "genatt", "wra", "legrad", "input_gradient"}


def test_what_is_not_read_is_not_there() -> None:
    recording = recorded(build("vit"), METHODS["rollout"].needs())
    first, last = recording.events[0], recording.events[-1]
    assert not first.A.requires_grad and last.A.requires_grad
    with pytest.raises(ValueError, match=r"Y was not kept.*Record without `reads`"):
        first.Y  # noqa: B018
    with pytest.raises(ValueError, match="methods without gradients"):
        recording.gradients(given(0))


def test_layers_before_the_last_are_off_the_graph() -> None:
    family = build("vit")
    recording = recorded(family, METHODS["genatt"].needs({"last": 1}))
    assert set(recording.gradients(family.target)) == {recording.events[-1]}
    with pytest.raises(ValueError, match="A was not kept"):
        rollout(recording, family.target)


def test_attention_that_nobody_looks_at_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map would be the largest tensor of the layer."""
    family, shapes = build("vit"), []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, *a, **k: shapes.append(x.shape) or softmax(x, *a, **k))
    recorded(family, METHODS["input_gradient"].needs())
    assert not shapes
    recorded(family, METHODS["genatt"].needs())
    assert len(shapes) == 2


def test_one_backward_pass_takes_the_graph_along() -> None:
    family = build("vit")
    recording = recorded(family, METHODS["wra"].needs())
    explain_recording(recording, "wra", family.target)
    explain_recording(recording, "genatt", family.target)  # whose gradients are there
    with pytest.raises(RuntimeError, match="second time"):
        recording.gradients(given(0))


def test_relevance_by_one_table_is_the_only_way_back() -> None:
    """Nothing else is silently taken for it: no gradient, no other rules, also where autograd itself carries some of it."""
    family, wanted = build("vit"), METHODS["cp_lrp"].needs({"gamma": 0.25})
    assert wanted.rules == with_gamma(CP_LRP, 0.25) and together([wanted]).rules is None
    recording = recorded(family, wanted)
    others = (
        recording.gradients,
        recording.rows_of,
        *(partial(relevances, recording, rules=r) for r in (CP_LRP, ATTN_LRP)),
    )
    for other in others:
        with pytest.raises(ValueError, match=r"rules of CP-LRP alone.*record with lrp='tokens'"):
            other(target=family.target)
    assert explain_recording(recording, "cp_lrp", family.target, gamma=0.25).scores["image"].any()


@pytest.mark.parametrize("method", ["cp_lrp", "attn_lrp"])
def test_relevance_by_one_table_keeps_what_its_rules_read(method: str) -> None:
    family, sizes = build("vit"), []
    parameters = {parameter.data_ptr() for parameter in family.model.parameters()}
    for wanted in (METHODS[method].needs(), together([METHODS[method].needs()])):
        kept: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.setdefault(x.data_ptr(), x), lambda x: x
        ):
            recorded(family, wanted)
        sizes.append(sum(x.nbytes for where, x in kept.items() if where not in parameters))
    assert 0 < sizes[0] < sizes[1] / 2


def test_methods_together_read_what_each_reads() -> None:
    both = together(METHODS[name].needs() for name in ("rollout", "genatt"))
    assert both.tensors == {"A"} and both.gradients == {"evidence"} and both.last is None and not both.once
    alone = together([METHODS["genatt"].needs({"last": 2})])
    assert alone.last == 2 and not alone.once
    assert record_for(["rollout", "transatt"], lambda wanted: wanted).lrp == "tokens"


def test_a_check_of_conservation_has_a_pass_of_its_own() -> None:
    family = build("vit")
    assert explain(family.model, family.inputs, "full_lrp", family.target, check=0.5).conservation is not None


def test_what_no_recording_has_is_refused() -> None:
    with pytest.raises(ValueError, match="has no B; give some of A, qkv"):
        reads("B")


def test_a_card_says_it_in_words() -> None:
    assert str(METHODS["rollout"].needs()) == "maps"
    assert str(METHODS["attn_lrp"].needs()) == "embeddings; relevance of embeddings"
    assert str(METHODS["random"].needs()) == "nothing"
