"""The class of a model that a folder of images is: by the model's own names, by WordNet ids, or by a file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipmapper.benchmark.tasks.source import required
from clipmapper.data.files import BadData, MissingData
from clipmapper.errors import unknown
from xai.files import PICTURES, read_text, visible


def labelled_images(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder of class folders with the names of theirs, in the order of names.

    Raises MissingData where there is none.
    """
    required(folder, "data", folder=True)
    classes = [path for path in visible(folder) if path.is_dir()]
    found = [(path, of.name) for of in classes for path in visible(of) if path.suffix.lower() in PICTURES]
    if not found:
        raise MissingData(
            f"--data: no folder in {folder} has images ({', '.join(PICTURES)}); it must hold a folder of images for each class"
        )
    return found


def unique_classes(names: Mapping[int, str]) -> dict[str, int]:
    """The class of each name that one class alone has: of ImageNet's 1000 all but those called "crane" or "maillot"."""
    counts = Counter(names.values())
    return {name: int(i) for i, name in names.items() if counts[name] == 1}


def class_indices(folders: Sequence[str], names: Mapping[str, int], classes: int, file: Path | None) -> dict[str, int]:
    """The class of each folder. Raises ValueError for a folder that is none.

    `names` are those that one class of the model alone has; WordNet ids are those of ImageNet's 1000 classes.
    """
    known = dict(names) | wordnet_ids(classes) if file is None else _listed(file, classes)
    for folder in folders:
        if folder not in known:
            remedy = "name it otherwise, or give --labels FILE with the folder's name of each class"
            several = "" if len(names) == classes else f" (names of several of the {classes} classes are left out)"
            raise ValueError(f"{unknown('class', folder, known)}{several}; {remedy if file is None else f'see {file}'}")
    return {folder: known[folder] for folder in folders}


def wordnet_ids(classes: int) -> dict[str, int]:
    """Returns the ids of a model with ImageNet's 1000 classes, which are in their order; of any other, none."""
    if classes != 1000:
        return {}
    from timm.data import ImageNetInfo

    return {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def _listed(file: Path, classes: int) -> dict[str, int]:
    lines = read_text(required(file, "labels")).split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != classes or len(set(names)) != classes:
        raise BadData(f"--labels: {file} has {len(set(names))} names for {classes} classes; give each one line")
    return {name: i for i, name in enumerate(names)}
