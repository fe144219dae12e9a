"""What is made of gradients as they come, against the same of gradients that are kept."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from xai import METHODS, Target, adapter_for, explain_recording, record
from xai.recording.event import MEANS
from xai.recording.reads import EVERYTHING, Reads, together
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..adapters.stock import built
from ..conftest import FAMILIES, Family, build

METHODS_OF_MEANS = ("genatt", "wra", "interaction", "legrad")


def recorded(family: Family, wanted: Reads) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs), wanted) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def assert_equal(found: Recording, whole: Recording, method: str, target: Target, **options: Any) -> None:
    assert METHODS[method].needs(options).gradients & MEANS.keys()
    expected = explain_recording(whole, method, target, **options).scores
    for modality, scores in explain_recording(found, method, target, **options).scores.items():
        assert torch.equal(scores, expected[modality]), f"{method} {options}"


@pytest.mark.parametrize("name", ["vit", "lxmert", "detr", "T5", "Swin"])
def test_self_cross_and_windowed_attention_give_the_same_bits(name: str) -> None:
    family = build(name) if name in FAMILIES else built(name)
    whole = recorded(family, EVERYTHING)
    for method in METHODS_OF_MEANS:
        for options in ({}, {"last": 1}):
            assert_equal(recorded(family, METHODS[method].needs(options)), whole, method, family.target, **options)
    both = recorded(family, together(METHODS[method].needs() for method in METHODS_OF_MEANS))
    for method in METHODS_OF_MEANS:
        assert_equal(both, whole, method, family.target)


@pytest.mark.parametrize("backward", ["libra", "attn_lrp"])
def test_gradients_by_rules_give_the_same_bits(backward: str) -> None:
    family = build("lxmert")
    whole = recorded(family, Reads(lrp="tokens"))
    for method in ("genatt", "legrad"):
        wanted = METHODS[method].needs({"backward": backward})
        assert_equal(recorded(family, wanted), whole, method, family.target, backward=backward)


@pytest.mark.parametrize(("name", "of"), [("InternVL, three images", [0, 0, 0]), ("LLaVA", [0, 1, 1, 0, 1])])
def test_rows_of_one_pass_give_the_same_bits(name: str, of: list[int]) -> None:
    family, sample, at = built(name), torch.tensor(of), -1 - torch.arange(len(of)) % 3
    target = Target("rows", lambda outputs: outputs.logits[sample, at, 5])
    whole = by_rows(recorded(family, EVERYTHING), sample)
    for method in METHODS_OF_MEANS:
        assert_equal(by_rows(recorded(family, METHODS[method].needs()), sample), whole, method, target)


def test_attentions_that_the_target_does_not_read_are_told() -> None:
    """Of LXMERT's last layer, what the language stream's pooled token reads alone."""
    family = build("lxmert")
    whole, found = recorded(family, EVERYTHING), recorded(family, METHODS["genatt"].needs())
    reached = [[gradient.reached for gradient in r.gradients(family.target).values()] for r in (whole, found)]
    assert reached[0] == reached[1] and set(reached[0]) == {True, False}
    for event, gradient in found.gradients(family.target).items():
        assert gradient.evidence.shape == event.A[:, 0].shape and gradient.evidence.any() == gradient.reached


@pytest.mark.parametrize("name", ["vit", "lxmert", "T5"])
def test_gradients_of_maps_are_gone_when_those_of_earlier_layers_come(name: str) -> None:
    family = build(name) if name in FAMILIES else built(name)
    most = {}
    for wanted in (EVERYTHING, together([METHODS["wra"].needs()])):
        recording, seen, alive = recorded(family, wanted), list[StorageWeakRef](), list[int]()

        def watch(slope: Tensor, seen: list[StorageWeakRef] = seen, alive: list[int] = alive) -> None:
            seen.append(StorageWeakRef(slope.untyped_storage()))
            alive.append(sum(not one.expired() for one in seen))

        for event in recording.events:
            event.in_graph.A[0].register_hook(watch)
        recording.gradients(family.target)
        most[wanted] = max(alive), sum(not one.expired() for one in seen)
    (whole, kept), (few, left) = most.values()
    assert kept == whole == len(alive) > few and left == 0


def test_a_gradient_that_was_not_kept_is_refused() -> None:
    family = build("vit")
    recording = recorded(family, METHODS["genatt"].needs())
    with pytest.raises(ValueError, match="A was not kept"):
        recording.gradients(family.target)[recording.events[0]].A  # noqa: B018
    own = {event: event.A.detach() for event in recording.events}
    whole = recorded(family, METHODS["genatt"].needs({"attention": own}))
    attention = dict(zip(whole.events, own.values(), strict=True))
    found = explain_recording(whole, "genatt", family.target, attention=attention).scores["image"]
    torch.testing.assert_close(found, explain_recording(recording, "genatt", family.target).scores["image"])
