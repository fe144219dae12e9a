"""The shipped models of the page, loaded once."""

import pytest
import torch

from clipmapper.app.models import Models


@pytest.fixture(scope="session")
def models() -> Models:
    return Models(torch.device("cpu"))
