"""Every kind of image file becomes RGB, every broken one an error that names it."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmapper.data import images as former
from clipmapper.images import BadImage, image_key, load_image


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixel(source: object) -> tuple[int, ...]:
    image = load_image(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_modes(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    assert pixel(save(Image.new("L", (4, 4), 77), tmp_path / "grey.png")) == (77, 77, 77)
    assert pixel(save(Image.new("1", (4, 4), 1), tmp_path / "bit.png")) == (255, 255, 255)
    assert pixel(save(Image.new("RGB", (4, 4), colour).quantize(4), tmp_path / "palette.png")) == colour
    assert pixel(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.tif")) == (255, 0, 0)
    cmyk = pixel(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg"))
    assert cmyk[0] > 240 and max(cmyk[1:]) < 15


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 128], [300, 65535]], dtype=np.uint16)
    image = load_image(save(Image.fromarray(values), tmp_path / "deep.png"))
    assert np.asarray(image)[..., 0].tolist() == [[0, 128], [1, 255]]


@pytest.mark.parametrize("values", [np.linspace(0, 1, 8), np.linspace(0, 255, 8), np.full(8, 255), np.full(8, 70_000)])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_brightness_without_a_scale_is_refused(tmp_path: Path, values: np.ndarray, kind: type) -> None:
    """Whether 1, 255 or 65535 is white is not in the file: it would come out black, or clipped."""
    path = save(Image.fromarray(values.astype(kind)[None]), tmp_path / "deep.tiff")
    for source in (path, path.read_bytes(), Image.fromarray(values.astype(kind)[None])):
        with pytest.raises(BadImage, match="does not say how bright white is; save it with 8 or 16 bits"):
            load_image(source)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_either_order(tmp_path: Path, order: str) -> None:
    values = np.array([[0, 257 * 128, 65535]], dtype=f"{order}u2")
    mode = "I;16B" if order == ">" else "I;16"
    path = save(Image.frombytes(mode, (3, 1), values.tobytes()), tmp_path / "deep.tiff")
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 128, 255]


def test_grey_is_kept_beside_an_opaque_alpha(tmp_path: Path) -> None:
    assert pixel(save(Image.new("LA", (4, 4), (77, 255)), tmp_path / "a.png")) == (77, 77, 77)
    palette = Image.new("RGB", (4, 4), (200, 100, 50)).quantize(4)
    assert pixel(save(palette, tmp_path / "b.png", transparency=3)) == (200, 100, 50)
    assert pixel(save(palette, tmp_path / "c.gif")) == (200, 100, 50)
    for mode in ("HSV", "YCbCr"):
        near = pixel(Image.new("RGB", (4, 4), (200, 100, 50)).convert(mode))
        assert max(abs(a - b) for a, b in zip(near, (200, 100, 50), strict=True)) < 4


def test_transparent_pixels_come_out_over_white(tmp_path: Path) -> None:
    assert pixel(save(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), tmp_path / "a.png")) == (255, 255, 255)
    assert pixel(save(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), tmp_path / "b.png")) == (255, 0, 0)
    assert pixel(save(Image.new("LA", (4, 4), (9, 0)), tmp_path / "c.png")) == (255, 255, 255)
    assert pixel(save(Image.new("RGB", (4, 4)).quantize(2), tmp_path / "d.png", transparency=0)) == (255, 255, 255)


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    path = save(Image.new("RGB", (6, 3), "red"), tmp_path / "turned.jpg", exif=exif)
    assert load_image(path).size == (6, 3)


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = save(Image.effect_noise((5, 4), 90).convert("RGB"), tmp_path / "x.png")
    content = path.read_bytes()
    sources = [path, str(path), content, {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
    images = [load_image(source).tobytes() for source in (*sources, Image.open(path))]
    assert set(images) == {Image.open(path).tobytes()}


def png_claiming(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + bytes(100)]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a readable image"),
        (b"<html>404</html>", "not a readable image"),
        (png_claiming(60_000, 60_000), "decompression bomb"),
        (None, "no such image"),
    ],
    ids=["empty", "html", "bomb", "missing"],
)
def test_broken_file_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=rf"broken\.jpg: .*{complaint}"):
        load_image(path)


@pytest.mark.parametrize("source", [bytes, Path])
def test_a_photo_of_a_phone_by_the_name_of_jpeg(tmp_path: Path, source: type) -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match="it is HEIC, AVIF or a film, whatever its suffix; save it as JPEG"):
        load_image(content if source is bytes else tmp_path / "a.jpg")


@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "webp", "bmp"])
def test_truncated(form: str) -> None:
    content = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(content, form)
    half = content.getvalue()[: len(content.getvalue()) // 2]
    with pytest.raises(BadImage, match=r"val2014/7\.jpg"):
        load_image({"bytes": half, "path": "val2014/7.jpg"})
    with pytest.raises(BadImage, match=f"image of {len(half)} bytes"):
        load_image(half)


def test_folder_and_empty_record(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=tmp_path.name):
        load_image(tmp_path)
    with pytest.raises(BadImage):
        load_image({"bytes": None, "path": None})


def test_key_follows_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "val2014"
    folder.mkdir()
    path = save(Image.new("RGB", (4, 4)), folder / "x.png")
    key = image_key(path)
    assert key.startswith("val2014/x.png:") and key == image_key(str(path)) == image_key({"bytes": None, "path": path})
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert image_key(path) != key
    with pytest.raises(BadImage, match="no such image"):
        image_key(folder / "y.png")


def test_key_follows_the_content() -> None:
    assert image_key(b"one") == image_key({"bytes": b"one", "path": "a.jpg"}) != image_key(b"two")
    image, turned = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert image_key(image) == image_key(image.copy()) != image_key(turned)


def test_the_former_name_stays() -> None:
    assert former.load_image is load_image and former.BadImage is BadImage
