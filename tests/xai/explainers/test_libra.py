"""LibraGrad on real models: the states before a layer hold the whole target, and rows of one pass have their own gradient."""

import pytest
import torch
from torch import nn

from xai import Target, adapter_for, explain, explain_generated, explain_recording, record
from xai.explainers.registry import method_named
from xai.explainers.states import along, standing
from xai.recording.event import Event
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..adapters.stock import built
from ..conftest import FAMILIES, Family, build
from ..generation.families import loaded


def without_biases(name: str) -> tuple[Family, Recording]:
    family = build(name) if name in FAMILIES else built(name)
    for parameter in (p for n, p in family.model.named_parameters() if n.endswith("bias")):
        nn.init.zeros_(parameter)
    with record(family.model, adapter_for(family.model, family.inputs), "tokens") as recorder:
        family.model(**family.inputs)
    return family, recorder.recording


@pytest.mark.parametrize("name", ["bert", "clip", "lxmert", "visualbert", "BLOOM", "Swin", "LLaVA", "Qwen2.5-VL"])
def test_the_states_before_any_layer_hold_the_whole_target(name: str) -> None:
    """Streams of different depth, smaller grids, and tokens that are made from others."""
    family, recording = without_biases(name)
    gradients = recording.gradients(family.target, "libra")

    def effect(event: Event) -> torch.Tensor:
        return (gradients[event].Y * event.Y.detach()).sum(-1)

    for layer in range(len(recording.layers)):
        held = along(recording, standing(recording, layer), effect).sum(1)
        torch.testing.assert_close(held, recording.score(family.target).detach())
    found = explain_recording(recording, "libra_fullgrad", family.target)
    total = torch.cat(list(found.scores.values()), dim=1).sum(1)
    single = {
        "rtol": 1e-5,
        "atol": 1e-6,
        "check_dtype": False,
    }  # BLOOM's attention, and so its map, is in single precision
    torch.testing.assert_close(total, recording.score(family.target).detach(), **single)


def test_an_encoder_s_last_states_stand_for_it() -> None:
    """They are read in every layer of the decoder, so that the sum is the target's before the decoder alone."""
    _, recording = without_biases("detr")
    encoder, decoder = recording.modalities["image"], recording.modalities["queries"]
    last = standing(recording, len(recording.layers) - 1)
    assert last["image"][0] is [event for event in recording.events if event.rows(encoder) is not None][-1]
    assert last["queries"][0] is recording.events[-1] and last["queries"][0].rows(decoder) is not None


@pytest.mark.parametrize("layer", [-1, 2])
def test_there_must_be_such_a_layer(layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer is {layer}; this recording has layers 0 to 1"):
        standing(without_biases("bert")[1], layer)


@pytest.mark.parametrize("method", ["genatt", "input_gradient", "libra_fullgrad"])
def test_rows_have_libra_s_gradient_of_their_own(method: str) -> None:
    _, recording = without_biases("LLaVA")
    sample, labels = torch.tensor([0, 1, 1]), torch.tensor([5, 7, 9])
    options = {} if method == "libra_fullgrad" else {"backward": "libra"}
    rows = Target("rows", lambda outputs: outputs.logits[sample, -1, labels])
    found = explain_recording(by_rows(recording, sample), method, rows, **options).scores
    for row, (of, label) in enumerate(zip(sample.tolist(), labels.tolist(), strict=True)):
        alone = Target(str(row), lambda outputs, label=label: outputs.logits[:, -1, label])
        for name, scores in explain_recording(recording, method, alone, **options).scores.items():
            torch.testing.assert_close(found[name][row], scores[of])


def test_what_a_pass_must_be_recorded_with() -> None:
    genatt, rollout = method_named("genatt"), method_named("rollout")
    assert genatt.needs().lrp is None and genatt.needs({"backward": "autograd"}).lrp is None
    assert genatt.needs({"backward": "libra"}).lrp == "tokens" and rollout.needs({"backward": "libra"}).lrp is None
    assert method_named("pixel_lrp").needs().lrp == "pixels" and method_named("cp_lrp").needs().lrp == "tokens"
    family = build("vit")
    with pytest.raises(TypeError, match="backward"):
        explain(family.model, family.inputs, "rollout", family.target, backward="libra")


def test_what_a_model_writes_is_recorded_with_rules() -> None:
    family = loaded("LLaVA")
    arguments = (family.model, family.processor, family.images, family.text, family.answer)
    libra = explain_generated(*arguments, method="input_gradient", backward="libra").steps.scores
    for name, scores in explain_generated(*arguments, method="cp_lrp").steps.scores.items():
        torch.testing.assert_close(libra[name], scores)
