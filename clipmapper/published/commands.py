"""`python evaluate.py BENCHMARK --model MODEL --output DIR ...`: the benchmarks of the papers by name."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from clipmapper.cli import Parser
from clipmapper.errors import unknown
from clipmapper.published import detr, imagenet, rationales, segmentation
from clipmapper.published.settings import Common, Detection, ImageNet, Rationales, Segmentation
from xai import RecordingError

COMMANDS: dict[str, tuple[type[Common], Callable[[Any], None]]] = {
    "imagenet": (ImageNet, imagenet.run),
    "segmentation": (Segmentation, segmentation.run),
    "detr": (Detection, detr.run),
    "rationales": (Rationales, rationales.run),
}


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark that the first word names; leaves with a message on bad input."""
    try:
        settings, run = parse(arguments)
        run(settings)
    except (ValueError, OSError, ImportError, RecordingError) as error:
        sys.exit(f"error: {error}")


def parse(arguments: Sequence[str]) -> tuple[Any, Callable[[Any], None]]:
    """The settings and what runs them. Raises ValueError for an unknown benchmark and settings that do not fit."""
    name = arguments[0]
    if name not in COMMANDS:
        raise unknown("benchmark", name, COMMANDS)
    kind, run = COMMANDS[name]
    parser = Parser(prog=f"evaluate.py {name}", description=kind.__doc__.partition("\n")[0], allow_abbrev=False)  # type: ignore[union-attr]
    parser.add_class_arguments(kind)
    return kind(**parser.parse_args(list(arguments[1:])).as_dict()), run
