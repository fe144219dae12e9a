"""`python -m clipmapper.data.shapes --root DIR [--train N --val N --test N --questions N --seed S]`."""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module("clipmapper.data.shapes.__main__")

from pathlib import Path

from jsonargparse import auto_cli

from clipmapper.config import ShapesConfig
from clipmapper.data.shapes.write import write_shapes


def shapes(root: Path, train: int = 8000, val: int = 1000, test: int = 200, questions: int = 6, seed: int = 0) -> None:
    """Writes Shapes in the official VQAv2 and COCO formats.

    Args:
        root: folder to make.
        train: scenes of the train split.
        val: scenes of the val split.
        test: scenes of the test split, without answers.
        questions: questions a scene.
        seed: another seed gives other scenes.
    """
    write_shapes(root, ShapesConfig(train, val, test, questions, seed))
    print(f"Shapes stands in {root}")


def main() -> None:
    """Command line."""
    auto_cli(shapes, as_positional=False)
