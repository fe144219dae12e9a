"""What was saved is what is loaded, and nothing else is."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xai import Relevance, explain, given
from xai.lrp.conservation import Conservation, LayerFlow
from xai.results.modality import ModalityRelevance

from ..conftest import build


@pytest.fixture
def relevance() -> Relevance:
    family = build("lxmert")
    found = explain(family.model, family.inputs, "genatt", given(1), normalise=False, last=2)
    flow = Conservation(0.1 + 0.2, (LayerFlow("encoder.layer.0", 1.0, 1 / 3, math.inf, "add in x"),))
    regions = replace(found["regions"], grid=(2, 2))
    found = replace(found, modalities={**found.modalities, "regions": regions}, conservation=flow)
    words = [["[CLS]", "é", "##x", "$", '"', "\n", "[SEP]"], ["[CLS]", "a", "b", "c", "[SEP]"]]
    return found.with_words(words).with_boxes(torch.rand(2, 4, 4))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, ModalityRelevance):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def assert_same(one: Relevance, other: Relevance) -> None:
    for field in fields(Relevance):
        assert same(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("name", ["why", "why.safetensors", "why.json", "v1.2"])
def test_round_trip(tmp_path: Path, relevance: Relevance, name: str) -> None:
    relevance.save(tmp_path / "new" / name)
    stem = "v1.2" if name == "v1.2" else "why"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{stem}.safetensors", f"{stem}.json"}
    assert_same(Relevance.load(tmp_path / "new" / name), relevance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_are_exact(tmp_path: Path, relevance: Relevance, dtype: torch.dtype) -> None:
    scores = {key: value.to(dtype) for key, value in relevance.scores.items()}
    scores["text"][0, 0] = torch.nan
    scores["text"][0, 1] = -torch.inf
    relevance.with_scores(scores).save(tmp_path / "why")
    found = Relevance.load(tmp_path / "why").scores
    assert all(found[key].dtype == dtype for key in scores)
    assert all(torch.equal(found[key].nan_to_num(7), scores[key].nan_to_num(7)) for key in scores)


def test_without_words_boxes_and_target(tmp_path: Path) -> None:
    family = build("vit")
    relevance = explain(family.model, family.inputs, "rollout")
    relevance.save(tmp_path / "why")
    assert_same(Relevance.load(tmp_path / "why"), relevance)


def test_options_that_cannot_be_saved_are_named_before_anything_is_written(
    tmp_path: Path, relevance: Relevance
) -> None:
    with pytest.raises(TypeError, match=r"options\.baseline is of type Tensor, which cannot be saved"):
        replace(relevance, options={"baseline": torch.zeros(1)}).save(tmp_path / "why")
    assert not list(tmp_path.iterdir())
    replace(relevance, options={"layers": (0, 3)}).save(tmp_path / "why")
    assert Relevance.load(tmp_path / "why").options == {"layers": [0, 3]}


def test_a_failing_save_leaves_the_old_one(
    tmp_path: Path, relevance: Relevance, monkeypatch: pytest.MonkeyPatch
) -> None:
    relevance.save(tmp_path / "why")
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace(relevance, method="other").save(tmp_path / "why")
    assert_same(Relevance.load(tmp_path / "why"), relevance)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_and_foreign_files(tmp_path: Path, relevance: Relevance) -> None:
    relevance.save(tmp_path / "why")
    tensors, facts = tmp_path / "why.safetensors", tmp_path / "why.json"
    whole, text = tensors.read_bytes(), facts.read_bytes()

    def fails(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Relevance.load(tmp_path / "why")

    for length in (0, 7, 100, len(whole) - 1):
        tensors.write_bytes(whole[:length])
        fails(ValueError, r"why\.safetensors: not what was saved with why\.json; it is damaged or of another save")
    save_file({name: 2 * tensor for name, tensor in load_file_of(whole, tmp_path).items()}, tensors)
    fails(ValueError, "of another save")
    tensors.write_bytes(whole)
    for length in (0, 1, len(text) // 2):
        facts.write_bytes(text[:length])
        fails(ValueError, r"why\.json: truncated or not JSON")
    for other in ([], {}, {"format": "xai relevance 99"}):
        facts.write_text(json.dumps(other))
        fails(ValueError, r"why\.json: not of the format 'xai relevance 1'")
    facts.unlink()
    fails(FileNotFoundError, r"why\.json: no such file; a saved relevance is why\.safetensors and why\.json")
    facts.write_bytes(text)
    tensors.unlink()
    fails(FileNotFoundError, r"why\.safetensors: no such file")


def load_file_of(data: bytes, folder: Path) -> dict[str, Tensor]:
    path = folder / "copy.safetensors"
    path.write_bytes(data)
    return load_file(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", None),
        ("options", [1]),
        ("target", 3),
        ("grids", "x"),
        ("grids", {"regions": [1, 2]}),
        ("grids", {"regions": ["2", 2]}),
        ("grids", {"regions": [2**63, 2]}),
        ("words", {"text": [["a"], ["b"]]}),
        ("words", {"text": [[1] * 7, [1] * 7]}),
        ("words", {"elsewhere": []}),
        ("modalities", ["text"]),
        ("modalities", ["text", "regions", "regions"]),
        ("conservation", "x"),
        ("conservation", {}),
        ("conservation", {"start": 1, "layers": [{"x": 1}]}),
    ],
)
def test_facts_of_other_types_are_named(tmp_path: Path, relevance: Relevance, name: str, value: Any) -> None:
    relevance.save(tmp_path / "why")
    facts = json.loads((tmp_path / "why.json").read_text())
    for changed in ({**facts, name: value}, {key: facts[key] for key in facts if key != name}):
        (tmp_path / "why.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"why\.json: not as it was saved .*; save the relevance anew"):
            Relevance.load(tmp_path / "why")
