"""`python -m clipmapper.data.shapes --root DIR [--train N --val N --test N --questions N --seed S]`."""

from pathlib import Path

from jsonargparse import auto_cli

from clipmapper.config import ShapesConfig
from clipmapper.data.shapes.write import write_shapes
from clipmapper.errors import messages


def main(root: Path, train: int = 8000, val: int = 1000, test: int = 200, questions: int = 6, seed: int = 0) -> None:
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


if __name__ == "__main__":
    with messages():
        auto_cli(main, as_positional=False)
