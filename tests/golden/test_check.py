"""Our figures are the reference's on every file there is, and the checker sees when they are not."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors"))


@pytest.fixture(scope="module")
def checker() -> Any:
    if not FILES:
        message = f"the reference outputs are not on this machine ({GOLDEN})"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    spec = importlib.util.spec_from_file_location("check", Path(__file__).with_name("check.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES or [GOLDEN], ids=lambda path: path.stem)
def test_file(checker: Any, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.endswith("  ok")]) >= 7
    assert not [line for line in lines if "OFF" in line or "UNKNOWN" in line]


PERTURBED = {
    "bert_a": {
        "attention/1/0": "attention",
        "f64/attention_grad/0/1": "attention gradient",
        "f64/relevance/generate_rollout/1": "generate_rollout",
        "f64/relevance/generate_LRP_start0/1": "generate_LRP_start0",
    },
    "detr_a": {"modules/02_decoder_self.0/lrp_cam": "attention relevance"},
    "lxmert_a": {
        "relevance/ours_no_lrp/R_t_i": "ours_no_lrp",
        "relevance/ablation_no_aggregation/R_t_i": "ablation_no_aggregation",
    },
}


@pytest.mark.parametrize("name", PERTURBED)
def test_a_perturbed_value_is_seen(checker: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    golden = checker.Golden.load(GOLDEN / f"{name}.safetensors")
    changed = {key: golden.tensors[key].clone() for key in PERTURBED[name]}
    for tensor in changed.values():
        entry = tensor.flatten()[-tensor[-1].numel() :].abs().argmax() - tensor[-1].numel()
        tensor.view(-1)[entry] *= 1 + 1e-4
    save_file({**golden.tensors, **changed}, tmp_path / "perturbed.safetensors", golden.metadata)
    assert checker.main([str(tmp_path / "perturbed.safetensors")]) == 1
    off = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line.endswith("OFF")]
    assert sorted(off) == sorted(PERTURBED[name].values())


def test_a_zero_is_a_zero(checker: Any) -> None:
    zero, tiny = torch.zeros(1, 3), torch.tensor([[0.0, 1e-12, 0.0]])
    off = checker.error
    assert off(checker.Case("", "", zero, 1), zero) == 0
    assert off(checker.Case("", "", tiny, 1), zero) > 1
    assert off(checker.Case("", "", zero / 0, 1), zero) > 1


def test_an_unknown_method_is_seen(checker: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = checker.Golden.load(GOLDEN / "bert_a.safetensors")
    tensors = {**golden.tensors, "relevance/new_method/0": torch.zeros(2, 9)}
    save_file(tensors, tmp_path / "more.safetensors", golden.metadata)
    assert checker.main([str(tmp_path / "more.safetensors")]) == 1
    assert "UNKNOWN METHOD" in capsys.readouterr().out
