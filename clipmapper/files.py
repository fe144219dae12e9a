"""JSON files that are there whole or not at all, and folders that can be written."""

import json
import tempfile
from pathlib import Path
from typing import Any

from xai.files import replacing


def write_json(path: Path, content: Any) -> None:
    """Appears whole, or leaves what was there."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def require_writable(folder: Path) -> None:
    """Raises OSError, naming it and the remedy, for a folder that cannot be written or made; makes none."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: no file can be written in {there} ({error.strerror}); make it writable, or choose another folder"
        ) from error
