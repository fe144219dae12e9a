"""The files of a saved CLIPMapper: weights, description, model card."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CARD = """---
{{ card_data }}
---

A mapper over a frozen CLIP that answers questions about images or captions them, as `config.json` says. The weights are the
mapper's alone; CLIP's come from open_clip.

```python
from clipmapper import CLIPMapper

model = CLIPMapper.from_pretrained("{{ model_id | default("owner/name", true) }}")
print(model.answer("image.jpg", "What color is the circle?", top=3))  # task: vqa
print(model.caption("image.jpg"))  # task: caption
```
"""


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Raises FileNotFoundError, or ValueError naming the file; `expected` is its checksum, which former versions did not keep."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a saved CLIPMapper has {CONFIG} and {WEIGHTS}")
    if expected not in (None, checksum(path)):
        raise ValueError(
            f"{path} is damaged, or not of the {CONFIG} beside it, which has another checksum: save or fetch both anew"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}): save or fetch the model anew"
        ) from error


def read_description(path: Path) -> dict[str, Any]:
    """Reads what config.json says of the model. Raises FileNotFoundError, or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a saved CLIPMapper has {CONFIG} and {WEIGHTS}")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): save or fetch the model anew") from error
    missing = {"config", "answers", "clip_fingerprint"} - description.keys()
    if missing:
        raise ValueError(f"{path} is not of a CLIPMapper: it lacks {', '.join(sorted(missing))}")
    return description
