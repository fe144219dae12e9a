"""What the folder of a run keeps of its run in Weights & Biases."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xai.files import checksum, read_json

MEMORY = "wandb.json"


@dataclass
class Memory:
    """A W&B run as the folder of the run remembers it.

    Attributes:
        path: the file; None keeps nothing.
        id: of the run, by which it goes on.
        steps: the last step that was logged of each metric.
        artifacts: by the checksum of a file the artifact that holds it.
    """

    path: Path | None = None
    id: str = ""
    steps: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Memory | None":
        """None where there is no such file, or, with a warning, one that says something else."""
        if not path.is_file():
            return None
        try:
            said = read_json(path)
            steps, artifacts = said["steps"], said["artifacts"]
            if not (isinstance(said["id"], str) and said["id"]) or not all(type(v) is int for v in steps.values()):
                raise ValueError("it has no id, or steps that are no numbers")
            if not all(isinstance(name, str) for name in artifacts.values()):
                raise ValueError("its artifacts have no names")
            return cls(path, said["id"], dict(steps), dict(artifacts))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            warnings.warn(f"{path} cannot be read ({error}): a new W&B run begins", stacklevel=2)
            return None

    def fresh(self, metrics: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """The metrics that have not been logged at this step, or a later one."""
        return {name: value for name, value in metrics.items() if step is None or step > self.steps.get(name, -1)}

    def add(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Keeps that metrics were logged."""
        if step is not None:
            self.steps.update(dict.fromkeys(metrics, step))
            self.save()

    def save(self) -> None:
        """Writes the file anew. It may be lost if the machine fails, not the process: waiting for the disk would cost more."""
        if self.path is None:
            return
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.path)


def artifact_of(path: Path) -> str | None:
    """The artifact that holds a file of a run's folder, or a saved model, just as it is; None if there is none."""
    weights = path / "model.safetensors" if path.is_dir() else path
    folder = path.parent if path.is_dir() else path.parent.parent
    memory = Memory.read(folder / MEMORY) if weights.is_file() else None
    return memory.artifacts.get(checksum(weights)) if memory else None
