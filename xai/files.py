"""Files of our own, which are there whole or not at all; and files of others, which may be anything."""

import errno
import hashlib
import json
import os
import struct
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # in any case

# What Pillow's decoders raise on broken files of one format or another, beside its own DecompressionBombError.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on a disk, for a user, or in a file

_OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; it becomes `path` if the block ends well, and goes away if not.

    Raises OSError, naming `path`, where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno, f"{path} could not be written: {error.strerror or error}; make room there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def visible(folder: Path) -> list[Path]:
    """Lists a folder by name, without what systems leave there: hidden files (.DS_Store, ._a.png), Thumbs.db."""
    paths = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.name.lower() not in _OF_THE_SYSTEM)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Reads the text of a file, with or without a byte order mark. Raises ValueError, naming it, if it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it anew as UTF-8") from error


def read_json(path: Path, remedy: str = "fetch it anew") -> Any:
    """What a JSON file holds. Raises ValueError, naming it and the remedy, if it is not UTF-8 or not JSON."""
    return parsed_json(read_text(path), str(path), remedy)


def parsed_json(text: str, what: str, remedy: str) -> Any:
    """What JSON says. Raises ValueError for a text that is none, is nested too deeply, or has a number of too many digits."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: truncated or not JSON ({error}); {remedy}") from error


def repeated(values: Sequence[Any]) -> Any:
    """Returns the first value that is there twice; None if each is there once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
