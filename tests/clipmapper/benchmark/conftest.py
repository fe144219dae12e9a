"""A tiny mapper's answers to Shapes as a benchmark."""

from pathlib import Path

import pytest
import torch

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.config import DataConfig, ModelConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.records import load_split
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper

CONFIG = BenchmarkConfig(
    methods="genatt,raw_attention",
    protocol="wra",
    samples=5,
    batch_size=2,
    random_seeds=2,
    resamples=200,
    cost_samples=1,
    sanity_draws=1,
    gallery=2,
)


@pytest.fixture(scope="session")
def mapper() -> MapperModel:
    """One narrow layer with random weights over the CLIP that ships; its answers are those of the mappers that ship."""
    torch.manual_seed(0)
    answers = CLIPMapper.from_pretrained("shapes-b-vqa").answers
    return MapperModel(CLIPMapper(ModelConfig(SHAPES_CLIP, "shapes", layers=1, width=16, heads=2), answers).eval())


@pytest.fixture(scope="session")
def held_out(mapper: MapperModel, shapes_root: Path) -> Questions:
    records, root = load_split(DataConfig(root=shapes_root), "val", AnswerVocabulary(tuple(mapper.answers)))
    return Questions(records, root, len(mapper.answers), mapper.model.clip)


@pytest.fixture
def task(mapper: MapperModel, held_out: Questions, shapes_root: Path) -> AnswersTask:
    return AnswersTask(mapper, held_out, [0, 4, 9, 14, 20], CONFIG, shapes_root)
