"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real VQAv2, COCO and ERASER samples; not part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        message = f"the real data samples are not on this machine ({folder})"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder
