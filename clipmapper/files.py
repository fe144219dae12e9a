"""JSON files that are there whole or not at all."""

import json
from pathlib import Path
from typing import Any

from xai.files import replacing


def write_json(path: Path, content: Any) -> None:
    """Appears whole, or leaves what was there."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
