"""Precomputed regions of images, the visual input of LXMERT and VisualBERT: readers of the published file formats."""

import base64
import binascii
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xai.files import DAMAGED

# Fields of a line by their number: the bottom-up-attention files, and LXMERT's, where height comes before width.
COLUMNS = {
    6: ("id", "width", "height", "count", "boxes", "features"),
    10: ("id", "height", "width", "objects", "objects_conf", "attrs", "attrs_conf", "count", "boxes", "features"),
}
NAMES = {  # of the arrays in npz files
    "features": ("features", "x"),
    "boxes": ("boxes", "bbox"),
    "width": ("image_w", "image_width", "img_w"),
    "height": ("image_h", "image_height", "img_h"),
}
MOST_PIXELS = 2**31  # in one direction: a number beyond it is none of an image's
Refuse = Callable[[str], ValueError]  # makes the error that names the place in the file


@dataclass(frozen=True, eq=False)
class Regions:
    image: str  # its id
    size: tuple[int, int]  # height, width of the image in pixels
    boxes: Tensor  # [n, 4]: x1, y1, x2, y2 in pixels
    features: Tensor  # [n, D]


class RegionTable(Mapping[str, Regions]):
    """A file of bottom-up attention (`trainval_resnet101_faster_rcnn_genome_36.tsv`) or of LXMERT, by image id.

    Holds the place of each line alone; lines are read when asked for, by any process. Opening it goes through the file
    once. Raises ValueError for a line that cannot be read, naming it, KeyError for an unknown id.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}  # line, offset
        offset = 0
        with open(self.path, "rb") as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    self._add(text.partition(b"\t")[0].decode(errors="replace"), line, offset)
                offset += len(text)

    def _add(self, image: str, line: int, offset: int) -> None:
        if image in self._places:
            raise ValueError(
                f"{self.path}, lines {self._places[image][0]} and {line}: both of image {image}; remove one"
            )
        self._places[image] = (line, offset)

    def __getitem__(self, image: str) -> Regions:
        line, offset = self._places[image]
        with open(self.path, "rb") as file:
            file.seek(offset)
            fields = file.readline().rstrip(b"\r\n").split(b"\t")

        def refuse(problem: str) -> ValueError:
            return ValueError(
                f"{self.path}, line {line} (image {image}): {problem}; fetch the file anew or drop the line"
            )

        return _parsed(fields, refuse)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_npz(path: str | Path) -> Regions:
    """One image's regions, named as the file is.

    Arrays: `features` or `x`, [n, D] or as OpenVQA keeps them [D, n]; `boxes` or `bbox`, [n, 4] in pixels; `image_w` and
    `image_h`. Raises ValueError naming the file and what is wrong.
    """
    path = Path(path)

    def refuse(problem: str) -> ValueError:
        return ValueError(f"{path}: {problem}; extract the regions of this image anew")

    if path.is_file() and not zipfile.is_zipfile(path):
        raise refuse("not an npz file, or a truncated one")
    known = {alias for aliases in NAMES.values() for alias in aliases}
    try:
        with np.load(path, allow_pickle=False) as file:  # reads what is asked for; other arrays may be pickled
            there, arrays = list(file), {name: file[name] for name in file if name in known}
    except FileNotFoundError:
        raise
    except (
        *DAMAGED,
        zipfile.BadZipFile,
        LookupError,
        RuntimeError,
        MemoryError,
    ) as error:  # also what a flipped bit makes
        raise refuse(f"damaged ({error})") from error
    found = {name: arrays[_name(there, aliases, refuse)] for name, aliases in NAMES.items()}
    for name, array in found.items():
        if array.dtype.kind not in "iuf":
            raise refuse(f"{name} are of type {array.dtype}, not numbers")
    with np.errstate(over="ignore"):  # what is no float32 is infinite, and refused
        boxes, features = (torch.from_numpy(found[name].astype(np.float32)) for name in ("boxes", "features"))
    if boxes.ndim != 2 or features.ndim != 2:
        raise refuse(f"boxes of shape {list(boxes.shape)} and features of {list(features.shape)} are no tables")
    if features.shape[:1] != boxes.shape[:1] == features.shape[-1:]:
        features = features.mT
    height, width = (_side(found[name], name, refuse) for name in ("height", "width"))
    return _checked(Regions(path.stem, (height, width), boxes, features), refuse)


def lxmert_inputs(regions: Sequence[Regions]) -> dict[str, Tensor]:
    """`visual_feats`, `visual_pos` (boxes as shares of width and height) and `visual_attention_mask` of a batch."""
    pos = [r.boxes / torch.tensor([r.size[1], r.size[0]] * 2) for r in regions]
    return {
        "visual_feats": pad_sequence([r.features for r in regions], batch_first=True),
        "visual_pos": pad_sequence(pos, batch_first=True),
        "visual_attention_mask": _mask(regions),
    }


def visualbert_inputs(regions: Sequence[Regions]) -> dict[str, Tensor]:
    """`visual_embeds` and `visual_attention_mask` of a batch; VisualBERT takes no boxes."""
    embeds = pad_sequence([r.features for r in regions], batch_first=True)
    return {"visual_embeds": embeds, "visual_attention_mask": _mask(regions)}


def _mask(regions: Sequence[Regions]) -> Tensor:
    return pad_sequence([torch.ones(len(r.features), dtype=torch.long) for r in regions], batch_first=True)


def _parsed(fields: list[bytes], refuse: Refuse) -> Regions:
    if len(fields) not in COLUMNS:
        raise refuse(f"{len(fields)} fields, expected 6 (bottom-up attention) or 10 (LXMERT), parted by tabs")
    named = dict(zip(COLUMNS[len(fields)], fields, strict=True))
    height, width, count = (_number(named[name], name, refuse) for name in ("height", "width", "count"))
    boxes, features = (_floats(named[name], count, name, refuse) for name in ("boxes", "features"))
    return _checked(Regions(named["id"].decode(errors="replace"), (height, width), boxes, features), refuse)


def _number(text: bytes, name: str, refuse: Refuse) -> int:
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise refuse(f"{name} is {text[:20]!r}, not a positive whole number")
    return int(text)


def _side(array: np.ndarray, name: str, refuse: Refuse) -> int:
    if array.size != 1 or not 0 < array.item() < MOST_PIXELS or array.item() % 1:
        raise refuse(f"{name} is {str(array)[:20]}, not a positive whole number of pixels")
    return int(array.item())


def _floats(text: bytes, rows: int, name: str, refuse: Refuse) -> Tensor:
    """[rows, ...] from base64 of float32."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise refuse(f"{name} are not base64 ({error})") from error
    if not data or len(data) % (4 * rows):
        raise refuse(f"{name} have {len(data)} bytes, which are no float32 numbers for {rows} boxes")
    return torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(rows, -1)


def _name(there: list[str], aliases: tuple[str, ...], refuse: Refuse) -> str:
    for name in aliases:
        if name in there:
            return name
    raise refuse(f"no array {' or '.join(map(repr, aliases))} among {', '.join(map(repr, there))}")


def _checked(regions: Regions, refuse: Refuse) -> Regions:
    boxes, features, (height, width) = regions.boxes, regions.features, regions.size
    if boxes.shape[1:] != (4,) or features.dim() != 2 or len(features) != len(boxes):
        raise refuse(
            f"boxes of shape {list(boxes.shape)} and features of {list(features.shape)} do not belong together"
        )
    if not len(boxes):
        raise refuse("no boxes")
    if not features.isfinite().all():
        raise refuse("features are not all finite")
    x1, y1, x2, y2 = boxes.unbind(1)
    inside = (x1 > -2) & (y1 > -2) & (x2 < width + 2) & (y2 < height + 2)  # detectors round past the border
    if not (inside & (x1 <= x2) & (y1 <= y2)).all():
        raise refuse(f"boxes are not x1, y1, x2, y2 in an image of {width} x {height} pixels")
    if boxes.max() <= 1 and min(height, width) > 4:
        raise refuse("boxes seem to be shares of the image already, expected pixels")
    return regions
