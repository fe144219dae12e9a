"""Several targets of one recorded pass, against each target by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from xai import EXPLAINERS, METHODS, Target, adapter_for, explain_recording, record
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..adapters.stock import built
from ..conftest import build, few_passes

LABELS = torch.tensor([5, 7, 9, 5, 7])


def recorded(name: str) -> Recording:
    family = built(name)
    with record(family.model, adapter_for(family.model, family.inputs), "tokens") as recorder:
        family.model(**family.inputs)
    return recorder.recording


@pytest.mark.parametrize(("name", "of"), [("InternVL, three images", [0, 0, 0]), ("LLaVA", [0, 1, 1, 0, 1])])
def test_rows_are_explained_as_each_target_alone(name: str, of: list[int]) -> None:
    """By every method: images of one sample that are a batch of their own, and samples with different numbers of rows."""
    recording, sample, at = recorded(name), torch.tensor(of), -1 - torch.arange(len(of)) % 3
    rows, labels = by_rows(recording, sample), LABELS[: len(of)]
    target = Target("rows", lambda outputs: outputs.logits[sample, at, labels])
    checked = (0, len(of) - 1)
    alone = {row: Target(str(row), last(int(at[row]), int(labels[row]))) for row in checked}
    removing = {method for method, known in METHODS.items() if known.removes}  # from rows, no word that is read
    methods = [(method, few_passes(method)) for method in sorted(set(EXPLAINERS) - removing - {"random"})]
    methods += [("tam", {}), ("dex_ar", {}), ("dex_ar", {"lens": False}), ("legrad", {"heads": "own"})]
    for method, options in methods:
        found = explain_recording(rows, method, target, **options).scores
        for row in checked:
            expected = explain_recording(recording, method, alone[row], **options).scores
            for modality, scores in expected.items():
                torch.testing.assert_close(found[modality][row], scores[of[row]])


def last(at: int, label: int) -> Any:
    def score(outputs: Any) -> Tensor:
        return outputs.logits[:, at, label]

    return score


def test_a_head_that_reads_one_token_has_one_target_of_each_sample() -> None:
    family = build("clip")
    with record(family.model, adapter_for(family.model)) as recorder:
        family.model(**family.inputs)
    rows = by_rows(recorder.recording, torch.tensor([1, 0]))
    target = Target("rows", lambda outputs: outputs.logits_per_image.diagonal()[torch.tensor([1, 0])])
    with pytest.raises(ValueError, match="several targets of one pass cannot be read from one state"):
        explain_recording(rows, "legrad", target, heads="own")


def test_every_sample_has_a_row_and_the_flow_is_of_one_target() -> None:
    recording = recorded("LLaVA")
    with pytest.raises(ValueError, match=r"rows of samples \[0\] of a pass of 2"):
        by_rows(recording, torch.tensor([0, 0]))
    rows = by_rows(recording, torch.tensor([0, 1, 1]))
    target = Target("rows", lambda outputs: outputs.logits[torch.tensor([0, 1, 1]), -1, torch.tensor([3, 4, 5])])
    with pytest.raises(ValueError, match="one target at a time"):
        explain_recording(rows, "attn_lrp", target, check=True)
