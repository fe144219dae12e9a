"""`python -m clipmapper.export CHECKPOINT FOLDER`: a training checkpoint as a folder for `CLIPMapper.from_pretrained`."""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module(__spec__.name)

from pathlib import Path

from jsonargparse import auto_cli

from clipmapper.models.clip_mapper import CLIPMapper


def export(checkpoint: Path, folder: Path, half: bool = False) -> None:
    """Writes model.safetensors, config.json and a model card.

    Args:
        checkpoint: a checkpoint of train.py.
        folder: where the files go.
        half: store the weights in half precision.
    """
    model = CLIPMapper.from_pretrained(checkpoint)
    for name, part in model.named_children():
        if half and name != "clip":
            part.half()
    model.save_pretrained(folder)
    print(f"written: {folder}")


def main() -> None:
    """Command line."""
    auto_cli(export)
