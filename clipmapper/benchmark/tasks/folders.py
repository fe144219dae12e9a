"""Which class of a model a folder of images is: by the model's own names, by WordNet ids, or by a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipmapper.benchmark.tasks.source import required
from clipmapper.data.files import BadData, MissingData
from clipmapper.errors import unknown

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def labelled_images(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder of class folders with the names of theirs, in the order of names.

    Raises MissingData where there is none.
    """
    required(folder, "data", folder=True)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        (path, of.name)
        for of in classes
        for path in sorted(of.iterdir(), key=lambda p: p.name)
        if path.suffix.lower() in IMAGES
    ]
    if not found:
        raise MissingData(
            f"--data: no folder in {folder} has images ({', '.join(IMAGES)}); it must hold a folder of images for each class"
        )
    return found


def class_indices(folders: Sequence[str], names: Mapping[str, int], classes: int, file: Path | None) -> dict[str, int]:
    """The class of each folder. Raises ValueError for a folder that is none.

    `names` are the model's own; WordNet ids are those of ImageNet's 1000 classes.
    """
    known = dict(names) | wordnet_ids(classes) if file is None else _listed(file, classes)
    for folder in folders:
        if folder not in known:
            remedy = "give --labels FILE with the folder's name of each class" if file is None else f"see {file}"
            raise ValueError(f"{unknown('class', folder, known)}; {remedy}")
    return {folder: known[folder] for folder in folders}


def wordnet_ids(classes: int) -> dict[str, int]:
    """Of a model with ImageNet's 1000 classes, which are in the order of their ids; of any other, none."""
    if classes != 1000:
        return {}
    from timm.data import ImageNetInfo

    return {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def _listed(file: Path, classes: int) -> dict[str, int]:
    lines = required(file, "labels").read_text(encoding="utf-8").split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != classes or len(set(names)) != classes:
        raise BadData(f"--labels: {file} has {len(set(names))} names for {classes} classes; give each one line")
    return {name: i for i, name in enumerate(names)}
