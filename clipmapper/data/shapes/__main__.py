"""`python -m clipmapper.data.shapes --root DIR [--train N --val N --test N --questions N --seed S]`."""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module("clipmapper.data.shapes.__main__")

from pathlib import Path

from jsonargparse import auto_cli

from clipmapper.config import ShapesConfig
from clipmapper.data.shapes import hub
from clipmapper.data.shapes.write import write_shapes


def shapes(
    root: Path,
    train: int = 8000,
    val: int = 1000,
    test: int = 200,
    questions: int = 6,
    seed: int = 0,
    hub_folder: Path | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
) -> None:
    """Writes Shapes in the official VQAv2 and COCO formats.

    Args:
        root: folder to make.
        train: scenes of the train split.
        val: scenes of the val split.
        test: scenes of the test split, without answers.
        questions: questions a scene.
        seed: another seed gives other scenes.
        hub_folder: also write it there as a data set of the Hugging Face hub, with its ground truth and card.
        push_to_hub: also upload that data set, as owner/name.
        private: only its owner sees the uploaded data set, if it is new.
    """
    if private and push_to_hub is None:
        raise ValueError("--private does nothing without --push_to_hub: leave it out, or name the data set")
    write_shapes(root, ShapesConfig(train, val, test, questions, seed))
    print(f"Shapes stands in {root}")
    if hub_folder is not None:
        hub.write_folder(root, hub_folder)
        print(f"as a data set of the hub: {hub_folder}   to train on it: --data.hub.name {hub_folder}")
    if push_to_hub is not None:
        print(f"uploaded: {hub.push_to_hub(root, push_to_hub, private)}")


def main() -> None:
    """Command line."""
    auto_cli(shapes, as_positional=False)
