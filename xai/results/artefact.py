"""Tensors and facts as two files that belong together: NAME.safetensors, and NAME.json for people and programs to read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from xai.files import read_json, replacing

FORMAT = "xai relevance 1"


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes both files; the JSON holds the hash of the tensors, so that files of two saves are not mistaken for one.

    Raises TypeError for facts that JSON cannot say, naming them.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(copies)
    header = {"format": FORMAT, "tensors": hashlib.sha256(data).hexdigest()}
    text = json.dumps({**header, **_plain(facts, "")}, indent=1, ensure_ascii=False)
    for file, content in zip(files_of(path), (data, text.encode()), strict=True):
        with replacing(file) as temporary:
            temporary.write_bytes(content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and facts. Raises FileNotFoundError for a missing file, ValueError for one that is not as `save` wrote it."""
    tensor_file, fact_file = files_of(path)
    for file in (fact_file, tensor_file):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; a saved relevance is {tensor_file.name} and {fact_file.name}"
            )
    facts = read_json(fact_file, "save the relevance anew")
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
        raise ValueError(f"{fact_file}: not of the format {FORMAT!r}; was it saved by another program or version?")
    data = tensor_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts.pop("tensors", None):
        raise ValueError(
            f"{tensor_file}: not what was saved with {fact_file.name}; it is damaged or of another save, save anew"
        )
    return safetensors.torch.load(data), facts


def files_of(path: Path) -> tuple[Path, Path]:
    """The file of tensors and that of facts."""
    name = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(name + ".safetensors"), path.with_name(name + ".json")


def _plain(value: Any, name: str) -> Any:
    """Returns `value` as JSON gives it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{name}[{i}]") for i, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name.removeprefix('.')} is of type {type(value).__name__}, which cannot be saved; use numbers, strings, None, "
        "and lists and dicts of them"
    )
