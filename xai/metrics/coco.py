"""Reads COCO's annotation files and checks them: whatever refers to something must find it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xai.files import PICTURES, read_json, repeated, visible

FARTHEST = 100_000.0  # in pixels: pycocotools walks along every edge of a polygon, and crashes on far longer ones
MOST_PIXELS = 2**28  # of an image; more than Pillow decodes
PREFIX = re.compile(r"COCO_(?:train|val|test)20\d\d_")  # of the file names of 2014 and 2015


def read_described(path: Path) -> dict[str, Any]:
    """Reads a COCO file with its `images` and `categories` checked, numbers written as text or 1.0 being whole numbers.

    Args:
        path: of the file.

    Returns:
        Its content; the entries of `annotations` are not yet checked.

    Raises:
        ValueError: an entry that lacks something, or two of one number; names the file, the entry, and what it lacks.
    """
    described = read_json(path)
    for key in ("images", "categories", "annotations"):
        entries = described.get(key) if isinstance(described, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f'{path}: has no list of entries under "{key}"; expected a COCO file {{"{key}": [...], ...}}'
            )
    images = [_image(entry, what) for entry, what in _numbered(described["images"], f"{path}: image")]
    kinds = [_category(entry, what) for entry, what in _numbered(described["categories"], f"{path}: category")]
    for key, entries, kind in (("id", images, "images"), ("id", kinds, "categories"), ("name", kinds, "categories")):
        if (twice := repeated([entry[key] for entry in entries])) is not None:
            raise ValueError(f"{path}: several {kind} have the {key} {twice!r}; give each its own")
    return {**described, "images": images, "categories": kinds}


def annotations(path: Path, described: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the annotations with their image's id, each with its name for messages.

    Their own ids may be missing or all 0, as some annotation tools write them: nothing refers to them.

    Raises:
        ValueError: an unknown image, or an annotation that is there twice and would count twice.
    """
    known = {image["id"] for image in described["images"]}
    numbered = list(_numbered(described["annotations"], f"{path}: annotation"))
    contents = [hash(repr(entry)) for entry, _ in numbered]
    if (twice := repeated(contents)) is not None:
        raise ValueError(f"{numbered[contents.index(twice)][1]}: it is there twice; take one out")
    for entry, what in numbered:
        image = whole(entry, "image_id", what)
        if image not in known:
            raise ValueError(f"{what}: the file has no image {image}; add it to its images or take the annotation out")
        yield {**entry, "image_id": image}, what


def labelled(entry: dict[str, Any], what: str, kinds: set[int]) -> dict[str, Any]:
    """Checks the category, crowd flag and area of an object; without a flag it is no crowd."""
    category, crowd, area = whole(entry, "category_id", what), entry.get("iscrowd"), entry.get("area")
    if category not in kinds:
        raise ValueError(
            f"{what}: the file has no category {category}; add it to its categories or correct the annotation"
        )
    if crowd not in (None, 0, 1):
        raise ValueError(f"{what}: 'iscrowd' is {crowd!r}; expected 0 or 1")
    if area is not None and not (is_number(area, MOST_PIXELS) and area >= 0):
        raise ValueError(f"{what}: 'area' is {area!r}; expected a number, or no area for that of the mask")
    return {**entry, "category_id": category, "iscrowd": int(crowd or 0)}


def whole(entry: dict[str, Any], key: str, what: str) -> int:
    """Returns a whole number of an entry; raises ValueError for anything else."""
    value = entry.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) >= 2**63:
        raise ValueError(f"{what}: {key!r} is {entry.get(key)!r}; expected a whole number")
    return value


def is_number(value: Any, most: float) -> bool:
    return type(value) in (int, float) and abs(value) <= most


def is_polygon(value: Any) -> bool:
    """Whether a value is a list [x, y, x, y, ...] that can be drawn."""
    return isinstance(value, list) and len(value) % 2 == 0 and all(is_number(v, FARTHEST) for v in value)


def text(entry: dict[str, Any], key: str, what: str) -> str:
    """Returns a text of an entry; raises ValueError for anything else."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what}: {key!r} is {value!r}; expected a text")
    return value


def image_finder(folder: Path, source: Path | None = None) -> Callable[[str], Path]:
    """Returns a function from a name in an annotation file to the image of that name, or else of another suffix or COCO's prefix.

    Args:
        folder: of the images.
        source: the file that has the names; errors name it.

    Returns:
        The function. It raises FileNotFoundError for an image that is not in the folder, and ValueError where several could be
        meant.
    """
    by_stem: dict[str, list[Path]] = {}
    named = "" if source is None else f"{source}: "
    for path in visible(folder):
        if path.suffix.lower() in PICTURES:
            by_stem.setdefault(PREFIX.sub("", path.stem), []).append(path)

    def find(name: str) -> Path:
        below = Path(folder) / name.removeprefix(f"{Path(folder).name}/")
        if below.is_file():
            return below
        paths = by_stem.get(PREFIX.sub("", below.stem), []) if below.parent == Path(folder) else []
        if not paths:
            raise FileNotFoundError(f"{named}the image {name} is not in {folder}")
        if len(paths) > 1:
            raise ValueError(
                f"{named}the image {name} may be {' or '.join(path.name for path in paths)} in {folder}; leave one there"
            )
        return paths[0]

    return find


def _numbered(entries: list[dict[str, Any]], kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    for place, entry in enumerate(entries):
        yield entry, f"{kind} {entry['id']!r}" if "id" in entry else f"{kind} at place {place}"


def _image(entry: dict[str, Any], what: str) -> dict[str, Any]:
    numbers = {key: whole(entry, key, what) for key in ("id", "height", "width")}
    if min(numbers["height"], numbers["width"]) < 1 or numbers["height"] * numbers["width"] > MOST_PIXELS:
        raise ValueError(f"{what}: its size is {numbers['width']} x {numbers['height']}; expected that of the image")
    return {**entry, **numbers, "file_name": text(entry, "file_name", what)}


def _category(entry: dict[str, Any], what: str) -> dict[str, Any]:
    return {**entry, "id": whole(entry, "id", what), "name": text(entry, "name", what)}
