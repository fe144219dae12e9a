"""From model and inputs to relevance; targets; the recording's one backward pass."""

import ast
import importlib
import sys
from collections import UserDict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BatchEncoding, GPT2Config, GPT2LMHeadModel

import xai
from xai import (
    EXPLAINERS,
    adapter_for,
    difference,
    explain,
    explain_recording,
    given,
    predicted,
    record,
    similarity,
    token,
)
from xai.adapters import ADAPTERS
from xai.explainers import METHODS
from xai.explainers.algebra import readout_weights
from xai.explanation import RECOMMENDED, WITHOUT_RULES, explain_each, record_for, recorded_by
from xai.lrp.mode import PropagationError
from xai.recording.reads import Reads
from xai.recording.recording import Recording

from .conftest import Family, build

PACKAGE = Path(xai.__file__).parent


@pytest.fixture
def bert() -> Family:
    return build("bert")


def test_inputs_by_name_in_order_or_alone() -> None:
    family = build("vit")
    pixels = family.inputs["pixel_values"]
    by_name = explain(family.model, {"pixel_values": pixels}).scores["image"]
    assert torch.equal(by_name, explain(family.model, [pixels]).scores["image"])
    assert torch.equal(by_name, explain(family.model, pixels).scores["image"])


def test_the_result_tells_how_it_came_about(bert: Family) -> None:
    result = explain(bert.model, bert.inputs, "genatt", given(2), normalise=False, last=1)
    assert (result.method, result.options, result.target) == ("genatt", {"normalise": False, "last": 1}, "given 2")
    assert torch.equal(result["text"].mask, bert.inputs["attention_mask"].bool())
    assert explain(bert.model, bert.inputs, "rollout", given(2)).target is None


def test_wra_scores_sum_to_one(bert: Family) -> None:
    scores = explain(bert.model, bert.inputs, "wra").scores["text"]
    torch.testing.assert_close(scores.sum(1), torch.ones(2).double())


def test_without_a_name_the_recommended_method_explains_where_there_are_rules(bert: Family) -> None:
    assert explain(bert.model, bert.inputs).method == RECOMMENDED
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    assert explain_recording(recorder.recording).method == WITHOUT_RULES

    def run(reads: Reads) -> Recording:
        if reads.lrp is not None:
            raise PropagationError("no rule")
        return recorder.recording

    known, recording = recorded_by(None, {}, run)
    assert known.name == WITHOUT_RULES and recording is recorder.recording
    with pytest.raises(PropagationError, match="no rule"):
        recorded_by("consensus", {}, run)


def test_methods_that_ignore_the_target_are_tagged(bert: Family) -> None:
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    for method in EXPLAINERS:
        one, other = (explain_recording(recorder.recording, method, given(label)).scores["text"] for label in (0, 1))
        assert torch.equal(one, other) == METHODS[method].class_agnostic


def test_one_backward_pass_serves_all_methods(bert: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without gradients go before and look into the last layer alone, for the rows that the target reads."""
    calls: list[int] = []
    grad = torch.autograd.grad

    def counting(output: Any, inputs: Any, *weights: Any, **options: Any) -> Any:
        calls.append(len(inputs))
        return grad(output, inputs, *weights, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    target = predicted()
    for method in (name for name in EXPLAINERS if METHODS[name].passes == "one"):
        explain_recording(recorder.recording, method, target)
    whole = 3 * len(recorder.recording.events)
    assert sorted(calls) == [1, whole]
    explain_recording(recorder.recording, "wra", given(0))
    assert sorted(calls) == [1, whole, whole]


def test_a_failing_method_costs_the_others_nothing(bert: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """transatt needs rules, with which this pass was not recorded."""
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    found, errors = explain_each(recorder.recording, ["transatt", "genatt"], given(1))
    assert list(found) == ["transatt", "genatt"] and errors.keys() == {"transatt"}
    assert errors["transatt"].startswith("ValueError: ") and "lrp" in errors["transatt"]
    assert found["transatt"].scores["text"].isnan().all()
    alone = explain_recording(recorder.recording, "genatt", given(1))
    assert torch.equal(found["genatt"].scores["text"], alone.scores["text"])
    assert found["transatt"].scores["text"].shape == alone.scores["text"].shape


def test_without_rules_where_the_model_has_none() -> None:
    asked = []

    def recorded(reads: Reads) -> str:
        asked.append(reads.lrp)
        if reads.lrp:
            raise PropagationError("no rule for this")
        return "recorded"

    assert record_for(["wra", "transatt"], recorded) == "recorded" and asked == ["tokens", None]
    assert record_for(["wra"], recorded) == "recorded" and asked[2:] == [None]


def test_a_contrast_has_the_difference_of_the_gradients(bert: Family) -> None:
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    recording = recorder.recording
    one, two, both = (
        recording.gradients(target)[recording.events[0]].A for target in (given(1), given(2), difference(1, 2))
    )
    torch.testing.assert_close(both, one - two)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (predicted(), [3.0, 6.0]),
        (given(0), [1.0, 4.0]),
        (given(torch.tensor([2, 0])), [2.0, 4.0]),
        (difference(1, torch.tensor([0, 2])), [2.0, 1.0]),
    ],
)
@pytest.mark.parametrize("name", ["logits", "question_answering_score", None])
def test_class_targets(target: Any, expected: list[float], name: str | None) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [4.0, 6.0, 5.0]])
    assert target(logits if name is None else SimpleNamespace(**{name: logits})).tolist() == expected


@pytest.mark.parametrize("label", [3, -1, torch.tensor([0, 3]), torch.tensor([0, 1, 2])])
def test_a_class_that_there_is_not_is_named(label: Any) -> None:
    with pytest.raises(ValueError, match=r"class .* of 3 classes and 2 samples: give one of 0 to 2"):
        given(label)(torch.zeros(2, 3))


def test_targets_of_one_position() -> None:
    logits = torch.arange(24.0).reshape(2, 3, 4)
    assert token(1)(logits).tolist() == [7, 19]
    assert token(torch.tensor([0, 2]), 1)(logits).tolist() == [1, 21]
    assert xai.detection(2)(logits).tolist() == [10, 22]  # the last class is "no object"
    assert xai.detection(torch.tensor([0, 1]), 3)(logits).tolist() == [3, 19]
    assert token(1).row == ("text", 1) and xai.detection(2).row == ("queries", 2)


def test_similarity_of_pairs() -> None:
    image, text = torch.eye(2), torch.tensor([[0.5, 0.1], [0.3, 0.2]])
    expected = torch.tensor([5.0, 2.0])
    features = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(10.0)}
    torch.testing.assert_close(similarity()((image, text, torch.tensor(10.0))), expected)
    torch.testing.assert_close(similarity()(features), expected)
    torch.testing.assert_close(similarity()(SimpleNamespace(logits_per_image=10 * image @ text.T)), expected)
    with pytest.raises(ValueError, match="1 images and 2 texts"):
        similarity()((image[:1], text, 1.0))


def test_a_target_reads_its_own_row(bert: Family) -> None:
    with record(bert.model, adapter_for(bert.model)) as recorder:
        bert.model(**bert.inputs)
    recording = recorder.recording
    assert readout_weights(recording, token(torch.tensor([2, 4]))).argmax(1).tolist() == [2, 4]
    assert readout_weights(recording, predicted()).argmax(1).tolist() == [0, 0]
    with pytest.raises(ValueError, match="position 7 of 'text', which has 7 tokens"):
        readout_weights(recording, token(7))
    with pytest.raises(ValueError, match="modality 'queries'; the model has text"):
        readout_weights(recording, xai.detection(0))


def test_rows_that_a_callable_reads_are_found_by_its_gradient(bert: Family) -> None:
    encoder = bert.model.base_model
    inputs = {name: value[:1] for name, value in bert.inputs.items()}  # without padding
    with record(encoder, adapter_for(encoder)) as recorder:
        encoder(**inputs)
    recording = recorder.recording
    for method in ("rollout", "genatt"):
        maps = EXPLAINERS[method](recording, mean_state)
        of_mean = explain_recording(recording, method, mean_state).scores["text"]
        torch.testing.assert_close(of_mean, maps.detach().mean(dim=1))
        of_third = explain_recording(recording, method, third_state).scores["text"]
        torch.testing.assert_close(of_third, EXPLAINERS[method](recording, third_state).detach()[:, 2])


def mean_state(output: Any) -> Tensor:
    return output.last_hidden_state[..., 0].mean(dim=1)


def third_state(output: Any) -> Tensor:
    return output.last_hidden_state[:, 2, 0]


@pytest.mark.parametrize("method", ["rollout", "raw_attention", "attention_gradcam", "genatt", "wra"])
def test_a_head_that_reads_padding_is_refused(bert: Family, method: str) -> None:
    mask = bert.inputs["attention_mask"].flip(1)
    with pytest.raises(ValueError, match=r"sample 1: the target reads token 0, which is padding. Pad on the right"):
        explain(bert.model, {"input_ids": bert.inputs["input_ids"].flip(1), "attention_mask": mask}, method, given(1))


def test_inputs_of_any_mapping_are_cast(bert: Family) -> None:
    wanted = explain(bert.model, bert.inputs, "wra", given(1), dtype=torch.float64).scores["text"]
    inputs = BatchEncoding(dict(bert.inputs))
    assert torch.equal(explain(bert.model, inputs, "wra", given(1), dtype=torch.float64).scores["text"], wanted)
    embeds = bert.model.base_model.embeddings.word_embeddings(bert.inputs["input_ids"]).detach()
    inputs = UserDict(inputs_embeds=embeds, attention_mask=bert.inputs["attention_mask"])
    found = explain(bert.model, inputs, "wra", given(1), dtype=torch.float64).scores["text"]
    torch.testing.assert_close(found, wanted)


def off_target(output: Any) -> Tensor:
    return output.logits.detach()[:, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wrra"}, "unknown method 'wrra'; did you mean 'wra'"),
        ({"method": "wra", "last": 3}, "last is 3; this recording has 2 layers"),
        ({"target": off_target}, "no gradient"),
        ({"target": lambda output: output.logits}, r"one number a sample, shape \[2\], but is \[2, 3\]"),
        ({"target": lambda output: output.logits[:, 0] / torch.tensor([1, 0])}, r"not finite for samples \[1\]"),
    ],
)
def test_errors(bert: Family, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(bert.model, bert.inputs, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids.tolist(), r'input_ids is a list; give tensors: return_tensors="pt"'),
        (lambda ids: ids.numpy(), r"input_ids is a ndarray; give tensors"),
        (lambda ids: ids[0], r"input_ids has shape \[\d+\]; give \[samples, tokens\]"),
        (lambda ids: ids[:, :0], r"input_ids has shape \[2, 0\]; .* at least one of each"),
        (lambda ids: ids + 1000, r"input_ids has token 10\d\d of a model of \d+: take the tokenizer"),
        (
            lambda ids: ids.repeat(1, 200),
            r"\d+ tokens, of which the model has places for \d+: tokenizer\(\.\.\., truncation",
        ),
    ],
)
def test_inputs_that_are_no_batch_of_tensors_are_refused(bert: Family, change: Any, message: str) -> None:
    inputs = {"input_ids": change(bert.inputs["input_ids"])}
    with pytest.raises((TypeError, ValueError), match=message):
        explain(bert.model, inputs, "genatt")
    if "give" in message:  # what can be seen before the model runs, record and the adapter's observed pass see too
        with pytest.raises((TypeError, ValueError), match=message), record(bert.model, adapter_for(bert.model)):
            bert.model(**inputs)
        with pytest.raises((TypeError, ValueError), match=message):
            adapter_for(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)), inputs)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_what_is_no_module_is_refused(bert: Family) -> None:
    pipeline = SimpleNamespace(model=bert.model)
    for wrapper, remedy in (
        (partial(bert.model), r"`\.func`"),
        (pipeline, r"`\.model`"),
        (bert.model.forward, "nn.Module"),
    ):
        with pytest.raises(TypeError, match=f"modules can be watched: give .*{remedy}"):
            explain(wrapper, bert.inputs, "genatt")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"give .*{remedy}"), record(wrapper, adapter_for(bert.model)):  # type: ignore[arg-type]
            pass
        with pytest.raises(TypeError, match=f"give .*{remedy}"):
            adapter_for(wrapper, bert.inputs)  # type: ignore[arg-type]
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match=r"give the nn\.Module that it is made of"):
        explain(traced, torch.ones(1, 2), "genatt")


def test_nan_in_the_weights_is_named(bert: Family) -> None:
    torch.nn.init.constant_(bert.model.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match=r"not finite for samples \[0, 1\]; check the model's weights"):
        explain(bert.model, bert.inputs, "rollout")


def test_no_logits_is_an_error() -> None:
    with pytest.raises(TypeError, match="no logits in SimpleNamespace"):
        predicted()(SimpleNamespace(features=torch.ones(2)))


# what needs more than torch and jaxtyping; nothing imports these but when it is called
MORE = {  # what parts of xai beside its core may import, too
    "figures": {"matplotlib", "numpy", "PIL"},
    "results.artefact": {"safetensors"},
    "adapters.regions": {"numpy"},
    "metrics": {"numpy", "pycocotools", "PIL", "h5py"},
    "report": {"numpy", "PIL"},
    "pictures": {"PIL"},
}


def test_xai_needs_torch_and_jaxtyping_alone() -> None:
    """And never clipmapper: the adapter of CLIPmapper lives there."""
    core = {"torch", "jaxtyping", "xai", *sys.stdlib_module_names}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        part = next((part for part in MORE if name.startswith(part)), None)
        tree = ast.parse(path.read_text())
        allowed = core | (MORE[part] if part else set())
        assert {name.split(".")[0] for name in imported(ast.walk(tree))} <= allowed, path
        needed = {name.removeprefix("xai.") for name in imported(tree.body) if name.startswith("xai.")}
        assert part or not {n for n in needed for other in MORE if n.startswith(other)} - {"figures.geometry"}, path


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_every_adapter_is_of_a_class_that_exists() -> None:
    homes = {
        "open_clip": "open_clip.model",
        "timm": "timm.models",
        "torchvision": "torchvision.models.vision_transformer",
        "transformers": "transformers",
    }
    for name in ADAPTERS:
        library, cls = name.split(".")
        assert hasattr(importlib.import_module(homes[library]), cls), name
