"""The first word of evaluate.py, and what every benchmark writes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from clipmapper.published.commands import COMMANDS, main, parse
from clipmapper.published.explained import PAPERS, methods_of, spread
from clipmapper.published.reference import PUBLISHED
from clipmapper.published.results import Found, report, rows, summary, write
from clipmapper.published.settings import Detection, ImageNet
from torch import nn

from clipmapper.cli import parse_evaluation
from xai.metrics.statistics import mean_interval

REPOSITORY = Path(__file__).resolve().parents[3]


def test_every_value_can_be_given(tmp_path: Path) -> None:
    given = [
        "--model",
        "m",
        "--output",
        "o",
        "--images",
        "i",
        "--annotations",
        "a",
        "--threshold",
        "0.3",
        "--samples=7",
    ]
    settings, run = parse(["detr", *given])
    expected = Detection(model="m", output=Path("o"), images=Path("i"), annotations=Path("a"), threshold=0.3, samples=7)
    assert settings == expected and run is COMMANDS["detr"][1]
    settings, _ = parse(["imagenet", "--model=m", "--output=o", "--data=d", "--unit=pixels", "--dtype", "float64"])
    assert settings == ImageNet(model="m", output=Path("o"), data=Path("d"), unit="pixels", dtype="float64")


def test_what_is_no_benchmark_or_no_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="unknown benchmark 'imagenett'; did you mean 'imagenet'"):
        main(["imagenett"])
    with pytest.raises(SystemExit):
        main(["imagenet", "--modl", "x"])
    assert "unknown: modl; did you mean model?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_takes_both(tmp_path: Path) -> None:
    for arguments, expected in ((["rationales", "--help"], "--split"), (["--help"], "--checkpoint")):
        done = subprocess.run(
            [sys.executable, "evaluate.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


def test_evaluation_of_a_mapper_is_parsed_as_before() -> None:
    settings = parse_evaluation(["--checkpoint", "shapes-b-vqa", "--output", "results"], REPOSITORY / "configs")
    assert settings.checkpoint == "shapes-b-vqa" and settings.output == Path("results")


def test_methods_are_those_of_the_papers_by_default() -> None:
    assert methods_of("papers").names == tuple(PAPERS.split(","))
    assert methods_of("wra, genatt,wra").with_floor == ("wra", "genatt", "random")
    compared = {name for _, figures in PUBLISHED.values() for name in figures}
    assert compared == {*PAPERS.split(",")} - {"wra"}
    assert set(PUBLISHED) == set(COMMANDS)


def test_samples_come_from_all_over() -> None:
    assert spread(9, 3) == [0, 4, 8] and spread(3, None) == spread(3, 50) == [0, 1, 2]
    with pytest.raises(ValueError, match="no sample"):
        spread(0, 3)


def found(values: np.ndarray) -> Found:
    table = rows(methods_of("genatt"), {"image": ["a", "b", "c"]}, {"ap": values, "curve": np.zeros((2, 3, 4))})
    return Found("detr", {"ap": mean_interval(values)}, {"min_iou": 0.2}, table, None, {"samples": 3})


def test_a_failed_method_costs_no_other_its_figures(tmp_path: Path) -> None:
    methods = methods_of("genatt")
    methods.errors["genatt"] = "ValueError: so it is"
    values = np.array([[np.nan] * 3, [0.1, 0.2, np.nan]])
    settings, _ = parse(["imagenet", "--model=m", f"--output={tmp_path}", "--data=d"])
    result = write(found(values), methods, nn.Linear(1, 1), settings)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result, "no NaN, which JSON does not know"
    failed, floor = (result["methods"][name] for name in ("genatt", "random"))
    assert failed["error"] == "ValueError: so it is" and failed["figures"]["ap"]["mean"] is None
    assert floor["figures"]["ap"]["mean"] == pytest.approx(0.15) and floor["figures"]["ap"]["undefined"] == 1
    assert failed["published"]["ap"] == 0.131 and floor["published"] == {} and floor["class_agnostic"]
    text = report(result).splitlines()
    assert "undefined  ValueError: so it is" in text[1] and text[2].split() == ["published", "13.10"]
    assert "15.0 [10.0, 20.0]" in text[3] and text[3].startswith("random*")


def test_rows_are_methods_times_samples() -> None:
    table = found(np.arange(6.0).reshape(2, 3)).samples
    assert isinstance(table, pa.Table) and table["method"].to_pylist() == ["genatt"] * 3 + ["random"] * 3
    assert table["ap"].to_pylist() == [0, 1, 2, 3, 4, 5] and len(table["curve"][0]) == 4
    assert table["image"].to_pylist() == ["a", "b", "c"] * 2


def test_summary_keeps_the_order_of_methods() -> None:
    turned = replace(found(np.array([[1.0, 1, 1], [0, 0, 0]])), benchmark="segmentation")
    result = summary(turned, methods_of("genatt"))
    assert [entry["figures"]["ap"]["mean"] for entry in result["methods"].values()] == [1, 0]
    assert "TransAtt tab. 2" in result["published_in"] and torch.tensor(result["samples"]) == 3
