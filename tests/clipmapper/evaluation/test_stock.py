"""evaluate.py on models of transformers as their owners save them: answers and captions, scored and explained."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipmapper.commands import CONFIGS
from clipmapper.evaluation import captions
from clipmapper.evaluation.command import parse_evaluation
from clipmapper.evaluation.run import evaluate, run
from clipmapper.metrics.captions import CHEAP, Scores, score

from ...xai.generation.families import loaded

BENCHMARK = (
    "--benchmark.methods=wra",
    "--benchmark.samples=2",
    "--benchmark.cost_samples=0",
    "--benchmark.resamples=100",
    "--benchmark.protocol=wra",
)


def saved(name: str, folder: Path) -> Path:
    family, model = loaded(name), deepcopy(loaded(name).model).float()
    torch.manual_seed(0)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    family.processor.save_pretrained(folder)
    return folder


def evaluated(folder: Path, root: Path, output: Path, *options: str) -> dict:
    words = [f"--model={folder}", f"--data.root={root}", f"--output={output}", *options]
    evaluate(parse_evaluation(words, CONFIGS))
    return json.loads((output / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_answers_of_a_llava(shapes_root: Path, tmp_path: Path) -> None:
    metrics = evaluated(saved("LLaVA", tmp_path / "llava"), shapes_root, tmp_path / "out", *BENCHMARK)
    assert metrics["accuracy"]["overall"] >= 0
    entry = metrics["explainers"]["methods"]["wra"]
    assert entry["error"] is None
    assert entry["metrics"]["image/probability/srg"]["mean"] is not None and entry["metrics"]["text/mass"]["mean"] > 0
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(predictions) == 27 and all(isinstance(entry["answer"], str) for entry in predictions)
    assert (tmp_path / "out" / "report.html").is_file()


def test_captions_of_a_blip(shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_java(texts: Any, references: Any, metrics: Any = CHEAP, ptb: bool = False) -> Scores:
        return score(texts, references, metrics, ptb=False)

    monkeypatch.setattr(captions, "score", without_java)
    options = (*BENCHMARK, "--benchmark.methods=genatt")
    metrics = evaluated(saved("BLIP", tmp_path / "blip"), shapes_root, tmp_path / "out", *options)
    assert metrics["images"] == 9 and "RefCLIPScore" in metrics["metrics"]
    entry = metrics["explainers"]["methods"]["genatt"]
    assert entry["error"] is None and entry["metrics"]["caption/log_probability/srg"]["mean"] is not None
    with pytest.raises(SystemExit, match=r"--decoding.beams does nothing here"):
        run(
            parse_evaluation(
                [
                    f"--model={tmp_path / 'blip'}",
                    f"--data.root={shapes_root}",
                    f"--output={tmp_path / 'o'}",
                    "--decoding.beams=2",
                ],
                CONFIGS,
            )
        )
