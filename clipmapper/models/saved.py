"""The files of a saved CLIPMapper: weights, description, model card."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.config.checks import restored
from xai.files import checksum, read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"
REMEDY = "save or fetch the model anew"


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
    description = read_json(path, REMEDY)
    missing = {"config", "answers", "clip_fingerprint"} - (
        description.keys() if isinstance(description, dict) else set()
    )
    if missing:
        raise ValueError(f"{path} is not of a CLIPMapper: it lacks {', '.join(sorted(missing))}")
    require_plain(description, path)
    restored(ModelConfig, description["config"], str(path))
    return description


def require_size(config: ModelConfig, state: dict[str, Tensor], source: str) -> None:
    """Raises ValueError, naming the source, unless weights are as wide and deep as settings say: no far larger model is built."""
    projection, blocks = (
        state.get("image_projection.weight"),
        {n.split(".")[2] for n in state if n.startswith("mapper.blocks.")},
    )
    for name, said, there in (
        ("width", config.width, None if projection is None or projection.dim() != 2 else len(projection)),
        ("layers", config.layers, len(blocks)),
    ):
        if said is not None and said != there:
            raise ValueError(f"{source}: {name} is {said} there, and {there} in the weights; {REMEDY}")


def require_plain(description: dict[str, Any], source: str | Path) -> None:
    """Raises ValueError, naming the source, unless answers, tokens, fingerprint and checksum are of their types."""
    for name, kind in (("answers", str), ("tokens", int)):
        values = description.get(name, [])
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise ValueError(f"{source}: its {name} are {str(values)[:80]}, no list of {kind.__name__}; {REMEDY}")
    for name in ("clip_fingerprint", "sha256"):
        if not isinstance(description.get(name, ""), str):
            raise ValueError(f"{source}: {name} is {str(description[name])[:80]}, no text; {REMEDY}")
