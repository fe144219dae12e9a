"""Every benchmark runs, at its tiniest size."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.peers import PEERS
from benchmarks.peers.contest import contests, held

from ..commands import call

MODULES = {"by_hand": "transformers", "with_captum": "captum", "with_grad_cam": "pytorch_grad_cam"}
MODULES |= {"with_lxt": "lxt", "with_torchcam": "torchcam"}
OWN_PROCESS = ("peers", "data_loading")
SECONDS = ("perturbation", "rewriting", "feature_cache", "training_step", "growth", "gpu")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SECONDS))
        for name in BENCHMARKS
        if name not in OWN_PROCESS
    ],
)
def test_benchmark(name: str) -> None:
    found = import_module(f"benchmarks.{name}").run(quick=True)
    assert found
    for entry in found:
        assert entry.ratio is None or entry.ratio >= 0, entry
        assert entry.verdict(quick=True) in ("smoke", "-")
        for what, value in entry.extra.items():
            assert not what.startswith("largest difference") or (value is not None and value < 1e-5), entry
        assert "OTHER" not in entry.note, entry


@pytest.mark.parametrize("name", PEERS)
def test_peer_says_the_same(name: str) -> None:
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{PEERS[name]} is not installed")
    forward = torch.nn.LayerNorm.forward
    for contest in contests(name, quick=True):
        entry = held(contest, rounds=1)
        if contest.note == "same method":
            assert (entry.extra["difference"] or 0) < 1e-4, entry
            assert (entry.extra["rank correlation"] or 0) > 0.999, entry
    assert torch.nn.LayerNorm.forward is forward, "the stock classes are as they were"


@pytest.mark.slow
def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.PEERS", {"by_hand": "transformers"})  # each is a process: one will do
    run, ran = subprocess.run, list[str]()

    def forked(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs `python -m MODULE ...` in a process that has imported what it needs."""
        if command[:2] != [sys.executable, "-m"]:
            return run(command, **options)
        _, _, module, *arguments = command
        ran.append(module)
        printed = call(tmp_path, f"{module.replace('.', '/')}.py", *arguments)
        return subprocess.CompletedProcess(command, 0, printed, "")

    monkeypatch.setattr(subprocess, "run", forked)
    assert main(["data_loading", "peers", "--quick", "--output", str(tmp_path)]) == 0
    assert set(ran) == {"benchmarks.data_loading", "benchmarks.peers.contest"}
    assert "first conversion" in (shown := capfd.readouterr().out)
    assert "transformers: ViT-B/32, genatt" in shown
    assert (tmp_path / "results.json").is_file()
