"""Checkpoints on disk: written whole or not at all, read without executing anything."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from xai.files import replacing


class FileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written to a temporary name first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Raises OSError naming the file and the remedy if the disk is full; the checkpoint before stays."""
        path = Path(path)
        try:
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"checkpoint {path} could not be written ({error}): free space, then --run.resume last"
            ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises FileNotFoundError, or ValueError for a file that is none or holds code."""
    path = Path(path)
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt"))
        hint = f"; there are {', '.join(map(str, near))}" if near else ""
        raise FileNotFoundError(f"no checkpoint {path}{hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for truncated and foreign files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is not a readable checkpoint, or holds more than tensors and plain values: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content
