"""Reads COCO's panoptic files: the images with the mask of all things, and each thing with its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai.files import repeated
from xai.metrics.coco import annotations as entries_of
from xai.metrics.coco import image_finder, labelled, read_described, text, whole
from xai.metrics.masks import Load, Masked, MaskedImages, extent, opened_mask, read_image, require_fit, size_of


def panoptic_images(images: Path, annotations: Path, folder: Path, load: Load = read_image) -> MaskedImages:
    """Reads the images of a COCO panoptic file with the mask of all things; what is unlabelled or a crowd is not valid.

    Args:
        images: the folder of images.
        annotations: the panoptic file.
        folder: of the panoptic masks.
        load: reads an image.

    Returns:
        The images, each read and checked when it is asked for.

    Raises:
        FileNotFoundError: an image that is missing.
        ValueError: an entry that does not fit; names file and entry.
    """
    described = _read_panoptic(annotations)
    things = _things(described)
    find = image_finder(images, annotations)
    names = {image["id"]: image["file_name"] for image in described["images"]}
    entries = described["annotations"]
    paths = [find(names[entry["image_id"]]) for entry in entries]

    def read(i: int) -> Masked:
        ids, segments, image = _segments(entries[i], Path(folder)), entries[i]["segments_info"], load(paths[i])
        require_fit(extent(ids), str(Path(folder) / entries[i]["file_name"]), image, paths[i])
        crowds = [segment["id"] for segment in segments if segment["iscrowd"]]
        objects = [segment["id"] for segment in segments if segment["category_id"] in things]
        valid = (ids != 0) & ~torch.isin(ids, torch.tensor(crowds, dtype=torch.long))
        mask = torch.isin(ids, torch.tensor(objects, dtype=torch.long)) & valid
        return Masked(str(entries[i]["image_id"]), image, mask, valid)

    return MaskedImages(len(entries), read)


def panoptic_instances(annotations: Path, folder: Path) -> dict[str, Any]:
    """Reads the things of a COCO panoptic file, each with its mask, as `pycocotools.coco.COCO` has them for `dataset`.

    Raises ValueError, naming file and entry, for an entry that does not fit or a mask of another size than its image.
    """
    from pycocotools import mask as rle  # here: the readers of masks need none of it

    from xai.metrics.instances import placed

    described = _read_panoptic(annotations)
    things = _things(described)
    sizes = {image["id"]: (image["width"], image["height"]) for image in described["images"]}
    objects: list[dict[str, Any]] = []
    for entry in described["annotations"]:
        size, ids = sizes[entry["image_id"]], _segments(entry, Path(folder))
        if extent(ids) != size:
            mask = Path(folder) / entry["file_name"]
            by_file = f"its image by {annotations} {size_of(size)}"
            raise ValueError(f"{mask} has {size_of(extent(ids))} pixels, {by_file}; fetch both anew")
        for segment in (s for s in entry["segments_info"] if s["category_id"] in things):
            encoded = rle.encode(np.asfortranarray((ids == segment["id"]).numpy().astype(np.uint8)))
            objects.append(placed({**segment, "image_id": entry["image_id"]}, encoded, len(objects) + 1))
    categories = [category for category in described["categories"] if category["isthing"]]
    return {"images": described["images"], "categories": categories, "annotations": objects}


def _read_panoptic(path: Path) -> dict[str, Any]:
    """Reads a panoptic file with the entries of `annotations` checked."""
    described = read_described(path)
    kinds = {category["id"] for category in described["categories"]}
    for category in described["categories"]:
        if category.get("isthing") not in (0, 1):
            raise ValueError(
                f"{path}: category {category['name']!r} has no 'isthing' of 0 or 1; is it a panoptic file?"
            )
    entries = []
    for entry, what in entries_of(path, described):
        segments = entry.get("segments_info")
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise ValueError(f"{what}: has no list of entries under 'segments_info'; is {path} a panoptic file?")
        checked = [{**labelled(s, what, kinds), "id": whole(s, "id", what)} for s in segments]
        if (twice := repeated([segment["id"] for segment in checked])) is not None:
            raise ValueError(f"{what}: several segments have the id {twice}; fetch {path} anew")
        entries.append({**entry, "file_name": text(entry, "file_name", what), "segments_info": checked})
    if (twice := repeated([entry["image_id"] for entry in entries])) is not None:
        raise ValueError(f"{path}: several annotations are of the image {twice}; take one out")
    return {**described, "annotations": entries}


def _things(described: dict[str, Any]) -> set[int]:
    return {category["id"] for category in described["categories"] if category["isthing"]}


def _segments(entry: dict[str, Any], folder: Path) -> Tensor:
    """Reads the segment's id of each pixel [H, W]; raises ValueError unless they are the entry's segments."""
    path = folder / entry["file_name"]
    rgb = torch.from_numpy(np.array(opened_mask(path).convert("RGB"))).long()
    ids = rgb @ torch.tensor([1, 256, 256**2])
    unlike = {int(i) for i in ids.unique() if i} ^ {segment["id"] for segment in entry["segments_info"]}
    if unlike:
        raise ValueError(f"{path}: segment {min(unlike)} is not both in it and in the annotation file; fetch both anew")
    return ids
