"""Checkpoints of Lightning on disk: written whole or not at all."""

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
