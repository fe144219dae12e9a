"""Images with the truth of where their object is: ImageNet-Segmentation, folders of masks, COCO panoptic files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Masked(NamedTuple):
    name: str
    image: Image.Image
    mask: Tensor  # [H, W], True on the object
    valid: Tensor  # [H, W], False where nothing is labelled


def imagenet_segmentation(path: Path) -> Iterator[Masked]:
    """The images of `gtsegs_ijcv.mat` (Guillaumin et al. 2014), a MATLAB 7.3 file; needs h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is a MATLAB 7.3 file; install h5py to read it") from error
    with h5py.File(path) as file:
        images, masks = file["value/img"], file["value/gt"]
        for i in range(len(images)):
            pixels = np.asarray(file[images[i, 0]]).transpose(2, 1, 0)  # MATLAB's axes are reversed in the file
            mask = torch.from_numpy(np.asarray(file[file[masks[i, 0]][0, 0]]).T != 0)
            yield Masked(str(i), Image.fromarray(pixels).convert("RGB"), mask, torch.ones_like(mask))


def mask_folder(images: Path, masks: Path, ignore: int | None = None) -> Iterator[Masked]:
    """Pairs an image with the mask of the same stem, in the order of names; labels that are not 0 are the object.

    The label `ignore` says nothing (255 in PASCAL VOC). Raises FileNotFoundError for a mask without image.
    """
    by_stem = {path.stem: path for path in Path(images).iterdir()}
    for path in sorted(Path(masks).iterdir()):
        if path.stem not in by_stem:
            raise FileNotFoundError(f"no image of the name {path.stem} in {images} for the mask {path}")
        labels = torch.from_numpy(np.array(Image.open(path)))
        if labels.dim() != 2:
            raise ValueError(f"{path} has {labels.shape[-1]} channels; a mask has one label a pixel")
        valid = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
        with Image.open(by_stem[path.stem]) as image:
            yield Masked(path.stem, image.convert("RGB"), (labels != 0) & valid, valid)


def panoptic_masks(annotations: Path, folder: Path) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Image id, mask [H, W] of all things, and where it is valid (labelled, and no crowd), of a COCO panoptic file."""
    described = json.loads(Path(annotations).read_text(encoding="utf-8"))
    things = {category["id"] for category in described["categories"] if category["isthing"]}
    for entry in described["annotations"]:
        rgb = torch.from_numpy(np.array(Image.open(Path(folder) / entry["file_name"]).convert("RGB"))).long()
        ids = rgb @ torch.tensor([1, 256, 256**2])
        segments = entry["segments_info"]
        crowds = [segment["id"] for segment in segments if segment["iscrowd"]]
        objects = [segment["id"] for segment in segments if segment["category_id"] in things]
        valid = (ids != 0) & ~torch.isin(ids, torch.tensor(crowds, dtype=torch.long))
        yield entry["image_id"], torch.isin(ids, torch.tensor(objects, dtype=torch.long)) & valid, valid
