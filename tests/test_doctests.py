"""The examples in docstrings of what others call."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
WITH_EXAMPLES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for package in ("clipmapper", "xai")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(module: str) -> None:
    results = doctest.testmod(import_module(module))
    assert results.attempted and not results.failed
