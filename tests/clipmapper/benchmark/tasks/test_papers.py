"""The first word of evaluate.py, and what its benchmarks can be told."""

from pathlib import Path

import pytest

from clipmapper.benchmark.tasks.classes import ClassesSettings
from clipmapper.benchmark.tasks.detection import DetectionSettings, DetectionTask
from clipmapper.benchmark.tasks.source import spread
from clipmapper.evaluation.papers import main, parse


def test_every_value_can_be_given_by_either_name() -> None:
    options = ["--model=m", "--output", "o", "--images", "i", "--annotations", "a", "--threshold", "0.3"]
    settings, config, _, task = parse(
        ["detr", *options, "--samples=7", "--benchmark.batch_size", "3", "--pictures", "2"]
    )
    assert settings == DetectionSettings(
        model="m", output=Path("o"), images=Path("i"), annotations=Path("a"), threshold=0.3
    )
    assert (config.samples, config.batch_size, config.gallery, config.methods) == (
        7,
        3,
        2,
        "papers",
    ) and task is DetectionTask
    settings, config, _, _ = parse(
        ["imagenet", "--model=m", "--output=o", "--data=d", "--unit=pixels", "--dtype", "float64"]
    )
    assert settings == ClassesSettings(model="m", output=Path("o"), data=Path("d"), unit="pixels", dtype="float64")
    assert config.samples is None


def test_what_is_no_benchmark_or_no_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="unknown benchmark 'imagenett'; did you mean 'imagenet'"):
        main(["imagenett"])
    with pytest.raises(SystemExit):
        main(["imagenet", "--modl", "x"])
    assert "unknown: modl; did you mean model?" in capsys.readouterr().err


def test_samples_come_from_all_over() -> None:
    assert spread(9, 3) == [0, 4, 8] and spread(3, None) == spread(3, 50) == [0, 1, 2]
    with pytest.raises(ValueError, match="no sample"):
        spread(0, 3)
