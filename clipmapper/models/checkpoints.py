"""Checkpoints of train.py, read without executing anything."""

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.config.checks import restored
from clipmapper.models.pretrained import require_finite
from clipmapper.models.saved import require_plain

FORMAT = 1  # of the "clipmapper" entry in checkpoints


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Returns the content of a checkpoint; raises FileNotFoundError, or ValueError for a file that is none or holds code."""
    path = Path(path)
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt"))
        hint = f"; there are {', '.join(map(str, near))}" if near else ""
        raise FileNotFoundError(f"no checkpoint {path}{hint}")
    try:
        file = BytesIO(path.read_bytes())
        content = torch.load(file, map_location="cpu", weights_only=True)
        damaged = ZipFile(file).testzip() if is_zipfile(file) else None  # which torch does not look for
    except Exception as error:  # torch raises many kinds for truncated and foreign files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is not a readable checkpoint, or holds more than tensors and plain values: {reason}"
        ) from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} in it is another; take another checkpoint")
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content


def check_checkpoint(checkpoint: dict[str, Any], model: Any, source: str) -> None:
    """Raises ValueError, naming the field, unless the checkpoint is of this model, finite, with these answers over this CLIP."""
    saved, own = described(checkpoint, source), model.description()
    ours, theirs = own["model"], asdict(restored(ModelConfig, saved["model"], source))
    for name in ours:
        if name not in ("dropout", "pretrained") and ours[name] != theirs[name]:
            raise ValueError(f"{source}: model.{name} is {theirs[name]!r} there and {ours[name]!r} here")
    if saved["answers"] != own["answers"]:
        raise ValueError(
            f"{source} knows {len(saved['answers'])} answers, this run's data has {len(own['answers'])} or others: "
            "use the data or the data.vocabulary it was trained with"
        )
    if saved.get("tokens", []) != own.get("tokens", []):
        raise ValueError(
            f"{source} writes {len(saved['tokens'])} BPE tokens, this run's captions have {len(own['tokens'])} or others: "
            "use the data it was trained with"
        )
    if saved.get("vocabulary") != own.get("vocabulary"):
        raise ValueError(f"{source} has a tokenizer made from other texts; use the data it was trained with")
    check_clip(own, saved["clip_fingerprint"], source)
    require_finite(checkpoint["state_dict"], source)


def check_clip(description: dict[str, Any], fingerprint: str, source: str) -> None:
    """Raises ValueError if `source` was trained over a CLIP with other weights than the model of a description."""
    here, model = description["clip_fingerprint"], description["model"]
    if here != fingerprint:
        raise ValueError(
            f"{source} was trained over another CLIP: its fingerprint is {fingerprint}, {model['clip']} with "
            f"{model['pretrained']!r} has {here}; give the weights it was trained with as model.pretrained"
        )


def described(checkpoint: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns the checkpoint's own description of its model; raises ValueError if it, or the state, is something else."""
    saved = checkpoint.get("clipmapper")
    if not isinstance(saved, dict) or _holds_tensors(saved) or saved.get("format") != FORMAT:
        raise ValueError(f"{source} is not a checkpoint of CLIPmapper (format {FORMAT})")
    if missing := {"model", "answers", "clip_fingerprint", "extra"} - saved.keys():
        raise ValueError(f"{source} lacks {', '.join(sorted(missing))}; take another checkpoint")
    require_plain(saved, source)
    restored(ModelConfig, saved["model"], source)
    extra = saved["extra"]
    if not isinstance(extra, dict) or not all(isinstance(extra.get(name, {}), dict) for name in ("data", "optimizer")):
        raise ValueError(f"{source}: its settings of data and optimizer are no mappings; take another checkpoint")
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        raise ValueError(f"{source}: its state_dict is not tensors by name; take another checkpoint")
    return saved


def _holds_tensors(value: Any) -> bool:
    """Whether there is a tensor in a description: they cannot be compared as plain values are."""
    left, seen = [value], set[int]()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            return True
        if id(value) not in seen and isinstance(value, dict | list | tuple):
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    return False
