"""`python -m clipmapper.app [--model MODEL --host ADDRESS --port N --accelerator cpu]`: a page to try models."""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module("clipmapper.app.__main__")

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from jsonargparse import auto_cli
from packaging.version import Version

OLDEST = Version("6.17.3")  # of gradio, that shows a page without asking other machines for parts of it


def app(
    model: str = "shapes-b-vqa",
    host: str = "127.0.0.1",
    port: int | None = None,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> None:
    """Shows a web page on which one asks models about pictures, and sees why they answer so.

    Args:
        model: that is chosen at first: a shipped name, a checkpoint, a folder, a hub id or open_clip's MODEL:WEIGHTS.
        host: address to listen on; 0.0.0.0 lets other machines reach the page.
        port: to listen on; null for the first free one from 7860.
        accelerator: where models compute.
    """
    require_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import torch

    from clipmapper.app.models import Models
    from clipmapper.app.page import serve
    from clipmapper.evaluation.run import device_of

    serve(Models(torch.device(device_of(accelerator))), model, host, port)


def require_gradio() -> None:
    """Raises ImportError, with the remedy, if gradio is missing or too old."""
    try:
        there = Version(version("gradio")) >= OLDEST
    except PackageNotFoundError:
        there = False
    if not there:
        raise ImportError(f"the page needs gradio {OLDEST} or newer: pip install 'gradio>={OLDEST}'")


def main() -> None:
    """Command line."""
    auto_cli(app, as_positional=False)
