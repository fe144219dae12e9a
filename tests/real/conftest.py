"""Models with real weights, of the extra `real`; in CI they must be there."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.real import Focus, Sentences


def loaded(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ModuleNotFoundError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


@pytest.fixture(scope="session")
def sentences() -> Sentences:
    return loaded(Sentences)


@pytest.fixture(scope="session")
def focus() -> Focus:
    return loaded(Focus)
