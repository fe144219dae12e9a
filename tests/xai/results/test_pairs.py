"""Pairs of a relevance: cut from a map, shared among single tokens, saved and read."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xai import Method, Relevance, adapter_for, explain, explain_recording, record
from xai.explainers.algebra import shared_scores
from xai.explainers.interaction import interaction

from ..conftest import build


def test_shared_scores_sum_to_all_pairs() -> None:
    values = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = values + values.mT
    scores = shared_scores(values)
    for sample in range(2):
        total = sum(float(values[sample, i, j]) for i in range(4) for j in range(i, 4))
        assert float(scores[sample].sum()) == pytest.approx(total)
        half = sum(float(values[sample, 1, j]) / 2 for j in (0, 2, 3))
        assert float(scores[sample, 1]) == pytest.approx(float(values[sample, 1, 1]) + half)


def test_interaction_keeps_its_scores_and_has_pairs() -> None:
    """Its scores are the row that the head reads; rows of a pair are queries, columns keys."""
    family = build("lxmert")
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    recording = recorder.recording
    M, found = interaction(recording, family.target), explain_recording(recording, "interaction", family.target)
    text, regions = recording.modalities["text"], recording.modalities["regions"]
    mask = recording.mask[:, text, None] & recording.mask[:, None, regions]
    torch.testing.assert_close(found.between("text", "regions"), M[:, text, regions] * mask)
    torch.testing.assert_close(found.between("regions", "text"), M[:, regions, text] * mask.mT)
    torch.testing.assert_close(found.scores["regions"], M[:, text][:, 0, regions] * recording.mask[:, regions])
    assert not found.between("text", "regions")[~mask].any()


def test_shared_maps_give_shared_scores() -> None:
    family = build("bert")

    def even(recording: object, target: object) -> Tensor:
        return torch.ones(2, 7, 7, dtype=torch.float64)

    found = explain(family.model, family.inputs, Method("even", even, pairs="shared"), family.target)
    assert found.scores["text"].tolist() == [[4.0] * 7, [4.0] * 5 + [0.0] * 2]
    assert found.between("text", "text")[1].sum() == 25
    plain = explain(family.model, family.inputs, even, family.target)
    assert plain.pairs is None and plain.scores["text"][0].tolist() == [1.0] * 7
    with pytest.raises(ValueError, match="even says nothing of pairs"):
        plain.between("text", "text")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Relevance, Path]:
    family = build("lxmert")
    found = explain(family.model, family.inputs, "interaction", family.target)
    found.save(tmp_path / "why")
    return found, tmp_path / "why"


def test_pairs_are_saved(saved: tuple[Relevance, Path]) -> None:
    found, path = saved
    again = Relevance.load(path)
    assert found.pairs is not None and again.pairs is not None and list(again.pairs) == list(found.pairs)
    for names, values in found.pairs.items():
        assert torch.equal(again.between(*names), values)
    assert torch.equal(found.rows([1, 1]).between("text", "regions")[0], found.between("text", "regions")[1])
    assert found.with_scores(found.scores).pairs is None


@pytest.mark.parametrize("pairs", [[["text", "image"]], [["text"]], [["text", "text"]], ["text"], 3])
def test_pairs_that_do_not_fit_are_refused(saved: tuple[Relevance, Path], pairs: object) -> None:
    path = saved[1].with_suffix(".json")
    facts = json.loads(path.read_text())
    assert len(facts["pairs"]) == 4
    path.write_text(json.dumps({**facts, "pairs": pairs}))
    with pytest.raises(ValueError, match="save the relevance anew"):
        Relevance.load(saved[1])


def test_a_file_of_before_has_no_pairs(saved: tuple[Relevance, Path]) -> None:
    found = saved[0].with_scores(saved[0].scores)
    found.save(saved[1])
    path = saved[1].with_suffix(".json")
    facts = json.loads(path.read_text())
    del facts["pairs"]
    path.write_text(json.dumps(facts))
    assert Relevance.load(saved[1]).pairs is None
