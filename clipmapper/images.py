"""One image, from wherever it lies, as RGB pixels; and a short key that changes when its pixels may have changed."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xai.files import DAMAGED
from xai.pictures import decoded

# Path, file content, undecoded `datasets` image {"bytes": ..., "path": ...} (one may be None), or a decoded image.
ImageSource = str | Path | bytes | Mapping[str, Any] | Image.Image


class BadImage(ValueError):
    """An image that cannot be read; the message names the file."""


def load_image(source: ImageSource) -> Image.Image:
    """The image in mode RGB, 8 bits a channel, unrotated (the EXIF orientation is ignored, as in CLIP's preprocessing).

    Transparent pixels come out over white; 16-bit grey is scaled down. Raises BadImage for a file that is missing,
    truncated, not an image, large beyond Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`, twice), or of floats or 32-bit
    integers, which do not say how bright white is.
    """
    try:
        return _to_rgb(_open(source))
    except Image.DecompressionBombError as error:
        raise BadImage(f"{_name(source)}: {error}; make the image smaller") from error
    except FileNotFoundError as error:
        raise BadImage(f"{_name(source)}: no such image; check the data root and the image folder") from error
    except DAMAGED as error:
        raise BadImage(f"{_name(source)}: not a readable image ({error}); fetch it anew or leave it out") from error


def readable(rows: Iterable[int], source: Callable[[int], ImageSource]) -> dict[int, Image.Image]:
    """Returns the images of some rows by row, without those that cannot be read."""
    images = {}
    for row in rows:
        with suppress(BadImage):
            images[row] = load_image(source(row))
    return images


def png(image: Image.Image) -> bytes:
    """Returns an image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def image_key(source: ImageSource) -> str:
    """Identity of the pixels for a feature cache: name, size and time of change of a file, else a hash of the content.

    Raises BadImage for a missing file.
    """
    if isinstance(source, Mapping):
        return image_key(source["bytes"] if source["bytes"] is not None else source["path"] or "")
    if isinstance(source, bytes):
        return blake2b(source, digest_size=16).hexdigest()
    if isinstance(source, Image.Image):
        return blake2b(f"{source.mode}{source.size}".encode() + source.tobytes(), digest_size=16).hexdigest()
    try:
        stat = Path(source).stat()
    except OSError as error:
        raise BadImage(f"{source}: no such image; check the data root and the image folder") from error
    # Two parts of the path only, so that the cache survives a move of the data root.
    return f"{'/'.join(Path(source).parts[-2:])}:{stat.st_size}:{stat.st_mtime_ns}"


def _open(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, Mapping):
        return _open(source["bytes"] if source["bytes"] is not None else source["path"] or "")
    return decoded(source)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # a PNG of 16 bits is "I" to some Pillows
        raise ValueError(f"mode {image.mode} does not say how bright white is; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _name(source: ImageSource) -> str:
    if isinstance(source, Mapping):
        return str(source["path"] or f"image of {len(source['bytes'] or b'')} bytes")
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "decoded image")
    return str(source)
