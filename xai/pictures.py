"""Pictures of others, which may be damaged."""

from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError


def decoded(source: str | Path | bytes) -> Image.Image:
    """A picture with its pixels, once the checksums of a PNG are right: Pillow compares those of pixels only when asked."""

    def opened() -> Image.Image:
        try:
            return Image.open(BytesIO(source) if isinstance(source, bytes) else Path(source))
        except UnidentifiedImageError as error:
            if _start(source)[4:8] == b"ftyp":
                raise ValueError("it is HEIC, AVIF or a film, whatever its suffix; save it as JPEG or PNG") from error
            raise

    with opened() as image:
        if image.format == "PNG":
            image.verify()  # after which it has no pixels
    with opened() as image:
        image.load()
        return image


def _start(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:8]
    with open(source, "rb") as file:
        return file.read(8)
