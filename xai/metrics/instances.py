"""Reads COCO's instances files as pycocotools takes them, with what they may leave out filled in."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from xai.metrics.coco import annotations, is_polygon, labelled, read_described


def read_instances(path: Path, say: Callable[[str], object] = warnings.warn) -> dict[str, Any]:
    """Reads the objects of an instances file with their masks, numbered anew: pycocotools never finds an object of the number 0.

    Without `iscrowd` an object is no crowd, without `area` it has its mask's. An object whose mask has no pixel can never be
    found: it is left out.

    Args:
        path: of the file.
        say: is told which objects were left out.

    Returns:
        What `pycocotools.coco.COCO` has as `dataset`.

    Raises:
        ValueError: whatever does not fit; names file and annotation.
    """
    described = read_described(path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in described["images"]}
    kinds = {category["id"] for category in described["categories"]}
    objects: list[dict[str, Any]] = []
    empty = []
    for entry, what in annotations(path, described):
        checked = labelled(entry, what, kinds)
        encoded = _encoded(entry.get("segmentation"), sizes[checked["image_id"]], what)
        if rle.area(encoded):
            objects.append(placed(checked, encoded, len(objects) + 1))
        else:
            empty.append(what)
    if empty:
        say(f"left out: {len(empty)} objects whose mask has no pixel, the first is {empty[0]}")
    if not objects:
        raise ValueError(f"{path}: no object is left; expected annotations with masks")
    return {**described, "annotations": objects}


def placed(entry: dict[str, Any], encoded: dict[str, Any], number: int) -> dict[str, Any]:
    """Returns an object with its mask, and what follows from that: box, and area if it has none."""
    area = float(rle.area(encoded)) if entry.get("area") is None else entry["area"]
    place = {"area": area, "bbox": rle.toBbox(encoded).tolist(), "segmentation": encoded}
    return {**{key: entry[key] for key in ("image_id", "category_id", "iscrowd")}, **place, "id": number}


def _encoded(segmentation: Any, size: tuple[int, int], what: str) -> dict[str, Any]:
    """Polygons or run lengths as compressed run lengths."""
    remedy = "draw its mask, or take the annotation out"
    if not segmentation:
        raise ValueError(f"{what}: it has no segmentation; {remedy}")
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size, what)
    polygons: list[Any] = segmentation if isinstance(segmentation, list) else [None]
    if not all(map(is_polygon, polygons)):
        raise ValueError(
            f"{what}: 'segmentation' is {str(segmentation)[:80]}; expected a list of polygons [x, y, x, y, ...]"
        )
    outlines = [polygon for polygon in polygons if len(polygon) >= 6]  # fewer points enclose nothing
    if not outlines:
        raise ValueError(f"{what}: its segmentation has no polygon of three points or more; {remedy}")
    return rle.merge(rle.frPyObjects(outlines, *size))


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int], what: str) -> dict[str, Any]:
    counts = segmentation.get("counts")
    if segmentation.get("size") != [*size]:
        raise ValueError(
            f"{what}: its mask has rows and columns {segmentation.get('size')}, its image {[*size]}; make them the same"
        )
    if isinstance(counts, list):
        if all(type(count) is int and count >= 0 for count in counts) and sum(counts) == size[0] * size[1]:
            return rle.frPyObjects(segmentation, *size)
    elif isinstance(counts, str) and counts:
        encoded = {"size": [*size], "counts": counts.encode()}
        try:
            rle.decode(encoded)  # checks that the run lengths are as many pixels
        except ValueError:
            pass
        else:
            return encoded
    raise ValueError(f"{what}: its run lengths are not those of {size[0]} x {size[1]} pixels; export the masks anew")
