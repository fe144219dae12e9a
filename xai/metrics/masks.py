"""Images with the truth of where their object is: ImageNet-Segmentation, folders of masks, COCO panoptic files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xai.figures.geometry import Geometry


class Masked(NamedTuple):
    name: str
    image: Image.Image
    mask: Tensor  # [H, W], True on the object
    valid: Tensor  # [H, W], False where nothing is labelled


class MaskedImages(Sequence[Masked]):
    """Read one by one, when they are asked for."""

    def __init__(self, count: int, read: Callable[[int], Masked]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Masked: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Masked]: ...
    def __getitem__(self, index: int | slice) -> Masked | Sequence[Masked]:
        rows = range(self._count)[index]
        return self._read(rows) if isinstance(rows, int) else MaskedImages(len(rows), lambda i: self._read(rows[i]))


def imagenet_segmentation(path: Path) -> MaskedImages:
    """The images of `gtsegs_ijcv.mat` (Guillaumin et al. 2014), a MATLAB 7.3 file; needs h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is a MATLAB 7.3 file; install h5py to read it") from error

    def read(i: int) -> Masked:
        with h5py.File(path) as file:
            pixels = np.asarray(file[file["value/img"][i, 0]]).transpose(2, 1, 0)  # MATLAB's axes are reversed
            mask = torch.from_numpy(np.asarray(file[file[file["value/gt"][i, 0]][0, 0]]).T != 0)
        return Masked(str(i), Image.fromarray(pixels).convert("RGB"), mask, torch.ones_like(mask))

    with h5py.File(path) as file:
        for name in ("value/img", "value/gt"):
            if name not in file:
                raise ValueError(f"{path} has no {name}; is it gtsegs_ijcv.mat?")
        return MaskedImages(len(file["value/img"]), read)


def mask_folder(images: Path, masks: Path, ignore: int | None = None) -> MaskedImages:
    """Pairs an image with the mask of the same stem, in the order of names; labels that are not 0 are the object.

    The label `ignore` says nothing (255 in PASCAL VOC). Raises FileNotFoundError for a mask without image.
    """
    by_stem = {path.stem: path for path in Path(images).iterdir()}
    paths = sorted(Path(masks).iterdir())
    for path in paths:
        if path.stem not in by_stem:
            raise FileNotFoundError(f"no image of the name {path.stem} in {images} for the mask {path}")

    def read(i: int) -> Masked:
        labels = torch.from_numpy(np.array(Image.open(paths[i])))
        if labels.dim() != 2:
            raise ValueError(f"{paths[i]} has {labels.shape[-1]} channels; a mask has one label a pixel")
        valid = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
        return Masked(paths[i].stem, _image(by_stem[paths[i].stem]), (labels != 0) & valid, valid)

    return MaskedImages(len(paths), read)


def panoptic_images(images: Path, annotations: Path, folder: Path) -> MaskedImages:
    """The images of a COCO panoptic file with the mask of all things; what is unlabelled or a crowd is not valid.

    Raises FileNotFoundError for an image that is missing.
    """
    described = json.loads(Path(annotations).read_text(encoding="utf-8"))
    things, entries = _things(described), described["annotations"]
    find = image_finder(images)
    names = {image["id"]: image["file_name"] for image in described["images"]}
    paths = [find(names[entry["image_id"]]) for entry in entries]

    def read(i: int) -> Masked:
        return Masked(str(entries[i]["image_id"]), _image(paths[i]), *_of_things(entries[i], Path(folder), things))

    return MaskedImages(len(entries), read)


def panoptic_instances(annotations: Path, folder: Path) -> dict[str, Any]:
    """A COCO panoptic file as one of instances: its things, each with its mask."""
    from pycocotools import mask as rle  # here: the readers of masks need none of it

    described = json.loads(Path(annotations).read_text(encoding="utf-8"))
    things = _things(described)
    found: list[dict[str, Any]] = []
    for entry in described["annotations"]:
        ids = _segments(entry, Path(folder)).numpy()
        for segment in (s for s in entry["segments_info"] if s["category_id"] in things):
            encoded = rle.encode(np.asfortranarray((ids == segment["id"]).astype(np.uint8)))
            place = {"id": len(found) + 1, "image_id": entry["image_id"], "segmentation": encoded}
            found.append({key: segment[key] for key in ("category_id", "iscrowd", "area", "bbox")} | place)
    categories = [category for category in described["categories"] if category["isthing"]]
    return {"images": described["images"], "categories": categories, "annotations": found}


def image_finder(folder: Path) -> Callable[[str], Path]:
    """From a name in an annotation file to the image; COCO's 2014 files are found by their 2017 names too.

    The function raises FileNotFoundError for an image that is not in `folder`.
    """
    paths = sorted(Path(folder).iterdir())
    known = {path.stem.rpartition("_")[2]: path for path in paths} | {path.name: path for path in paths}

    def find(name: str) -> Path:
        path = known.get(name) or known.get(Path(name).stem)
        if path is None:
            raise FileNotFoundError(f"the image {name} is not in {folder}")
        return path

    return find


def as_seen(mask: Tensor, geometry: Geometry) -> Tensor:
    """A mask [..., H, W] as the model saw its image, by the nearest pixels, [..., *window]; False where no image was."""
    (rows, above), (columns, left) = (_pixels_seen(geometry, axis) for axis in (0, 1))
    return mask[..., rows, :][..., columns] & above[:, None] & left


def _pixels_seen(geometry: Geometry, axis: int) -> tuple[Tensor, Tensor]:
    """Which pixel of the image lies at the centre of each pixel of the window, along one axis, and where there is one."""
    centres = torch.arange(geometry.window[axis], dtype=torch.float64) + 0.5 + geometry.offset[axis]
    pixels = (centres * geometry.original[axis] / geometry.resized[axis]).floor().long()
    last = geometry.original[axis] - 1
    return pixels.clamp(0, last), (pixels >= 0) & (pixels <= last)


def _things(described: dict[str, Any]) -> set[int]:
    return {category["id"] for category in described["categories"] if category["isthing"]}


def _segments(entry: dict[str, Any], folder: Path) -> Tensor:
    """The segment's id of each pixel [H, W]."""
    rgb = torch.from_numpy(np.array(Image.open(folder / entry["file_name"]).convert("RGB"))).long()
    return rgb @ torch.tensor([1, 256, 256**2])


def _of_things(entry: dict[str, Any], folder: Path, things: set[int]) -> tuple[Tensor, Tensor]:
    ids, segments = _segments(entry, folder), entry["segments_info"]
    crowds = [segment["id"] for segment in segments if segment["iscrowd"]]
    objects = [segment["id"] for segment in segments if segment["category_id"] in things]
    valid = (ids != 0) & ~torch.isin(ids, torch.tensor(crowds, dtype=torch.long))
    return torch.isin(ids, torch.tensor(objects, dtype=torch.long)) & valid, valid


def _image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
