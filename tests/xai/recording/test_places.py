"""Sites named by calls of functions record what those named by modules do."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from xai import EXPLAINERS, Adapter, RecordingError, explain_recording, given, record
from xai.recording.places import ARGUMENT, Place, Places

from ..toys import TWO, blocks, model_of, snapshot, x

SOFTMAX = {"sdpa": "scaled_dot_product_attention"}


def placed(kind: str) -> Adapter:
    """That of `TWO`: the residual states are the model's argument and the first sum, the outputs those of the blocks."""
    states = [Place("x", ARGUMENT, 0), Place("", "add", 0)]
    sites = []
    for number, (site, state) in enumerate(zip(TWO.sites, states, strict=True)):
        inside = f"blocks.{number}"
        attention = Place(inside, SOFTMAX.get(kind, "softmax"), 0)
        output = Place(inside, "getitem", 3)  # after those of query, key and value
        sites.append(replace(site, places=Places((attention,), state, output)))
    return Adapter(tuple((site,) for site in sites), TWO.layout)


@pytest.mark.parametrize("kind", ["sdpa", "F.softmax", "method"])
def test_places_and_modules_catch_the_same(kind: str) -> None:
    model, target = blocks(kind), given(1)
    before = snapshot(model)
    found = []
    for adapter in (TWO, placed(kind)):
        with record(model, adapter) as recorder:
            model(x())
        found.append(recorder.recording)
    assert snapshot(model) == before
    for ours, theirs in zip(found[1].events, found[0].events, strict=True):
        for one, other in ((ours.A, theirs.A), (ours.Y, theirs.Y), (ours.Y_out, theirs.Y_out)):
            assert torch.equal(one, other)
    for method in EXPLAINERS:
        if method == "tokentm" or (method == "grad_eclip" and kind != "sdpa"):
            continue  # these attentions have no output projection; a softmax in plain code shows no queries
        first, second = (explain_recording(r, method, target).scores["x"] for r in found)
        torch.testing.assert_close(second, first)


def test_running_again_leaves_the_recorded_argument_as_it_was() -> None:
    model = blocks()
    for adapter in (TWO, placed("sdpa")):
        with record(model, adapter) as recorder:
            model(x())
        assert recorder.recording.rerun is not None
        recorder.recording.rerun({"x": torch.zeros(2, 5, 8)})
        assert torch.equal(recorder.recording.events[0].Y.detach(), x())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            model_of(lambda x: x + x, blocks=nn.ModuleList()),
            "call 1 of scaled_dot.* in module 'blocks.0' did not happen",
        ),
        (
            blocks(),
            "call 1 of scaled_dot_product_attention in module 'blocks.1' is an attention that the adapter does not",
        ),
    ],
)
def test_another_course_of_the_pass_is_refused(model: nn.Module, message: str) -> None:
    adapter = replace(placed("sdpa"), layers=placed("sdpa").layers[:1])
    with pytest.raises(RecordingError, match=message), record(model, adapter):
        model(x())
