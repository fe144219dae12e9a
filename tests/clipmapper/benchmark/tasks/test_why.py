"""The picture of questions under the methods that find the deciding objects."""

from pathlib import Path

import pytest
from PIL import Image

from clipmapper.benchmark.run import run
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.benchmark.tasks.why import marked, question_rows, save_why
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.processes import World


def test_a_row_for_each_question_and_a_column_for_each_method(
    mapper: MapperModel, held_out: Questions, shapes_root: Path, tmp_path: Path
) -> None:
    config = BenchmarkConfig(
        methods="genatt,rollout", removal=False, random_seeds=1, resamples=100, cost_samples=0, gallery=0
    )
    task = AnswersTask(mapper, held_out, [0, 4, 9], config, shapes_root)
    outcome = run(task, config, tmp_path, World())
    assert save_why(task, outcome.samples, outcome.metrics, tmp_path / "why.png")
    wide = Image.open(tmp_path / "why.png")
    metrics = outcome.metrics
    metrics["methods"].pop("rollout")
    assert save_why(task, outcome.samples, metrics, tmp_path / "less.png")
    assert wide.width > Image.open(tmp_path / "less.png").width > 100
    assert not save_why(task, outcome.samples, {"methods": {}}, tmp_path / "none.png")


def test_each_question_is_of_another_type_as_long_as_there_are_any() -> None:
    samples = {"question_type": ["colour", "colour", "size", "shape"], "row": [0, 1, 2, 3]}
    assert question_rows(samples, [True, True, True, False], 2) == [0, 2]
    assert question_rows(samples, [True, True, True, False], 6) == [0, 2, 1]


@pytest.mark.parametrize(("spans", "text"), [([], "What is red?"), ([(0, 4), (8, 11)], "[What] is [red]?")])
def test_deciding_words_stand_in_brackets(spans: list[tuple[int, int]], text: str) -> None:
    assert marked("What is red?", spans) == text
