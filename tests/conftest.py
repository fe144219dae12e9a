"""Fixtures every test may use."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes in annotations are checked in every call of functions on tensors; an int will do for a float.
SHAPES = ["xai.explainers", "xai.targets"]
SHAPES += [
    f"xai.metrics.{name}"
    for name in (
        "detection",
        "detection_resampling",
        "localisation",
        "pairs",
        "perturbation",
        "protocols",
        "ranking",
        "rationales",
        "removal",
        "resampling",
        "sanity",
        "segmentation",
    )
]
install_import_hook(SHAPES, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

settings.register_profile("any machine", deadline=None)  # a busy one takes its time
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none is left over when all others have run."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real VQAv2, COCO and ERASER samples; not part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        message = f"the real data samples are not on this machine ({folder})"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real one, for pages that are opened from a file or served by this machine."""
    if not shutil.which(CHROMIUM):
        message = f"{CHROMIUM} is missing: apt-get install --no-install-recommends chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright  # here: most tests need none

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=QUIET)
        yield browser
        browser.close()
