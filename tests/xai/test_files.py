"""What every reader reads with: JSON and pictures, whole or refused by name."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xai.files import read_json, replacing
from xai.pictures import decoded


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"<html>", b"\xff\xfe{}", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut", "HTML", "UTF-16", "deep", "digits"],
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: (not UTF-8|truncated or not JSON).*; (save it|fetch it) anew"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_part_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeff[1]", encoding="utf-8")
    assert read_json(tmp_path / "a.json") == [1]


def test_a_flipped_bit_of_a_png_is_found() -> None:
    """In the pixels, after which Pillow does not look at the checksum by itself."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    content = bytearray(file.getvalue())
    assert np.array_equal(np.asarray(decoded(bytes(content))), pixels)
    content[content.index(b"IDAT") - 4 + 8 + 60] ^= 1
    with pytest.raises(SyntaxError, match=r"bad header checksum|broken PNG"):
        decoded(bytes(content))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(OSError, match=r"a\.json could not be written: .*; make room there"),
        replacing(tmp_path / "a.json"),
    ):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())
