"""Reads images with the truth of where their object is: ImageNet-Segmentation, folders of masks, COCO panoptic files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from PIL import ExifTags, Image
from torch import Tensor

from xai.figures.geometry import Geometry
from xai.files import DAMAGED, PICTURES, visible
from xai.pictures import decoded

Load = Callable[[Path], Image.Image]  # an image file as RGB pixels, unrotated


class Masked(NamedTuple):
    name: str
    image: Image.Image
    mask: Bool[Tensor, "H W"]  # True on the object
    valid: Bool[Tensor, "H W"]  # False where nothing is labelled


class MaskedImages(Sequence[Masked]):
    """Sequence of images that are read one by one, when they are asked for."""

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


def read_image(path: Path) -> Image.Image:
    """Reads an image as RGB pixels, unrotated.

    Raises OSError, naming it, for a damaged one, and ValueError for 16 bits or floats.
    """
    image = _opened(path)
    if image.mode.startswith(("I", "F")):  # Pillow clips them at 255
        raise ValueError(f"{path}: its mode is {image.mode}; save it with 8 bits a channel")
    with _naming(path):
        return image.convert("RGB")


def imagenet_segmentation(path: Path) -> MaskedImages:
    """Reads the images of `gtsegs_ijcv.mat` (Guillaumin et al. 2014), a MATLAB 7.3 file; needs h5py.

    Raises:
        ValueError: another file or a truncated one, now or when an image is read; names the file.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is a MATLAB 7.3 file; install h5py to read it") from error

    def refused(problem: object) -> ValueError:
        return ValueError(f"{path}: {problem}; expected gtsegs_ijcv.mat, a MATLAB 7.3 file: fetch it anew")

    def read(i: int) -> Masked:
        try:
            with h5py.File(path) as file:
                pixels = np.asarray(file[file["value/img"][i, 0]]).T  # MATLAB's axes are reversed
                labels = torch.from_numpy(np.asarray(file[file[file["value/gt"][i, 0]][0, 0]]).T)
            if pixels.dtype != np.uint8:
                raise TypeError(f"its pixels are {pixels.dtype}, not uint8")
            image = Image.fromarray(pixels).convert("RGB")
        except (*DAMAGED, LookupError, TypeError, RuntimeError) as error:
            raise refused(f"image {i} cannot be read ({error})") from error
        if labels.shape != (image.height, image.width):
            raise refused(
                f"the mask of image {i} has {size_of(labels.T.shape)} pixels, the image {size_of(image.size)}"
            )
        return Masked(str(i), image, labels != 0, torch.ones_like(labels, dtype=torch.bool))

    try:
        with h5py.File(path) as file:
            missing = [name for name in ("value/img", "value/gt") if name not in file]
            shapes: list[Any] = [None if name in missing else file[name].shape for name in ("value/img", "value/gt")]
    except (*DAMAGED, LookupError, AttributeError, RuntimeError) as error:  # a group has no shape
        raise refused(error) from error
    if missing:
        raise refused(f"has no {missing[0]}")
    images, masks = shapes
    if images != masks or images[1:] != (1,):
        raise refused(f"its images are {images}, its masks {masks}")
    return MaskedImages(images[0], read)


def mask_folder(images: Path, masks: Path, ignore: int | None = None, load: Load = read_image) -> MaskedImages:
    """Pairs an image with the mask of the same stem, in the order of names; labels that are not 0 are the object.

    Args:
        images: the folder of images.
        masks: the folder of masks.
        ignore: the label that says nothing (255 in PASCAL VOC); None if all do.
        load: reads an image.

    Returns:
        The images with a mask. Reading one raises ValueError for a mask that has another size than its image, no label a pixel,
        or nothing but what is ignored.

    Raises:
        FileNotFoundError: a mask without image.
        ValueError: two files of one stem.
    """
    by_stem = _by_stem([path for path in visible(images) if path.suffix.lower() in PICTURES])
    paths = list(_by_stem(visible(masks)).values())
    for path in paths:
        if path.stem not in by_stem:
            raise FileNotFoundError(f"no image of the name {path.stem} in {images} for the mask {path}")

    def read(i: int) -> Masked:
        path, labels = by_stem[paths[i].stem], _labels(paths[i])
        valid = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
        mask = (labels != 0) & valid
        if not mask.any() and not valid.all():
            remedy = f"give --ignore null if {ignore} is the object, or take the mask out"
            raise ValueError(
                f"{paths[i]}: its only label but 0 is {ignore}, which is ignored, so no object is left; {remedy}"
            )
        image = load(path)
        require_fit(extent(labels), str(paths[i]), image, path)
        return Masked(path.stem, image, mask, valid)

    return MaskedImages(len(paths), read)


def require_fit(size: tuple[int, int], what: str, image: Image.Image, path: Path) -> None:
    """Raises ValueError unless `what`, width x height, fits an image; a photo is as it is stored, however it is to be shown.

    Where a photo is to be turned and has the same size then, it stays open which way `what` lies: refused too.
    """
    with _naming(path), Image.open(path) as header:
        orientation = _orientation(header)
    turned = f"{path} is stored turned (EXIF orientation {orientation}): save it as it is shown"
    if size != image.size:
        remedy = turned if orientation > 1 else "make their sizes the same"
        raise ValueError(f"{what} has {size_of(size)} pixels, its image {path} {size_of(image.size)}; {remedy}")
    if orientation > 1 and (orientation < 5 or image.width == image.height):
        raise ValueError(f"{what} may be turned or not; {turned}, and what was drawn on it")


def as_seen(mask: Shaped[Tensor, "*axes H W"], geometry: Geometry) -> Bool[Tensor, "*axes h w"]:
    """Brings a mask to the window that the model saw, by the nearest pixels.

    Args:
        mask: [..., H, W], of the original image.
        geometry: where its pixels went in preprocessing.

    Returns:
        [..., *window]; False beside the image.

    Example:
        >>> import torch
        >>> from xai.figures.geometry import squash
        >>> from xai.metrics.masks import as_seen
        >>> as_seen(torch.tensor([[True, False]]), squash((1, 2), (1, 4))).tolist()
        [[True, True, False, False]]
    """
    (rows, above), (columns, left) = (_pixels_seen(geometry, axis) for axis in (0, 1))
    return mask[..., rows, :][..., columns] & above[:, None] & left


def _pixels_seen(geometry: Geometry, axis: int) -> tuple[Tensor, Tensor]:
    """Finds which pixel of the image lies at the centre of each pixel of the window, along one axis, and where there is one."""
    centres = torch.arange(geometry.window[axis], dtype=torch.float64) + 0.5 + geometry.offset[axis]
    pixels = (centres * geometry.original[axis] / geometry.resized[axis]).floor().long()
    last = geometry.original[axis] - 1
    return pixels.clamp(0, last), (pixels >= 0) & (pixels <= last)


def _opened(path: Path) -> Image.Image:
    """Raises OSError, naming the file, for a damaged one."""
    with _naming(path):
        return decoded(path)


def opened_mask(path: Path) -> Image.Image:
    """Raises OSError or ValueError, naming the file, for a damaged one, several pages, or one that is to be turned."""
    with _naming(path), Image.open(path) as header:
        pages, orientation = getattr(header, "n_frames", 1), _orientation(header)
    if pages > 1:
        raise ValueError(f"{path} has {pages} pages; a mask is one picture: save its labels in one")
    if orientation > 1:
        raise ValueError(f"{path} is stored turned (EXIF orientation {orientation}): save the mask as it is shown")
    return _opened(path)


def _orientation(header: Image.Image) -> int:
    """Returns how a photo is to be turned before it is shown; 1 for not at all."""
    return header.getexif().get(ExifTags.Base.Orientation, 1)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: not a readable image ({error}); fetch it anew or leave it out") from error


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name: which belongs to the other folder's? take one out")
    return by_stem


def _labels(path: Path) -> Tensor:
    """Reads the label of each pixel [H, W]; of a palette image its index."""
    image = opened_mask(path)
    labels = np.asarray(image)
    if labels.ndim != 2:
        raise ValueError(
            f"{path} has {labels.shape[-1]} channels; a mask has one label a pixel: save it as grey or palette"
        )
    if image.format == "JPEG" or image.mode == "F":
        raise ValueError(f"{path} has no whole labels (it is {image.format}, mode {image.mode}); save masks as PNG")
    return torch.from_numpy(labels.astype(np.int64))


def size_of(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def extent(labels: Tensor) -> tuple[int, int]:
    """Returns width and height."""
    return int(labels.shape[1]), int(labels.shape[0])
