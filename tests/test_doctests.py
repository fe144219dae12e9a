"""The examples in docstrings of what others call."""

import doctest
from importlib import import_module

import pytest

WITH_EXAMPLES = (
    "xai.adapters",
    "xai.explanation",
    "xai.explainers.registry",
    "xai.results.relevance",
    "clipmapper.models.clip_mapper",
    "clipmapper.explain.models.load",
    "clipmapper.benchmark.callback",
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(module: str) -> None:
    results = doctest.testmod(import_module(module))
    assert results.attempted and not results.failed
