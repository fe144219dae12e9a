"""A file of reference outputs: its tensors, its model, and how far ours are from it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

TOLERANCES = {torch.float64: 2e-6, torch.float32: 5e-5}  # CLIP multiplies cosines by 100
LRP_FLOAT32 = 5e-4  # LRP divides by sums near zero, which multiplies rounding


@dataclass(frozen=True)
class Case:
    """One tensor of the reference and ours; `lead` leading axes count samples and targets, each judged by itself."""

    method: str
    key: str
    ours: Tensor
    lead: int
    sample: int | None = None  # ours is of this entry of the tensor's first axis alone
    without_identity: bool = False  # the identity hides the signal of maps that start from it
    lrp: bool = False


Cases = Callable[["Golden", torch.dtype], Iterator[Case]]


@dataclass(frozen=True)
class Golden:
    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> "Golden":
        with safe_open(path, "pt") as file:
            return cls(path, {key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118

    @property
    def model_class(self) -> str:
        return self.metadata["model_class"]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.metadata["config"])

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """By name without prefix; floating point in `dtype`."""
        found = {key.removeprefix("inputs/"): t for key, t in self.tensors.items() if key.startswith("inputs/")}
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in found.items()}

    def weighted(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        state = {key.removeprefix("weights/"): t for key, t in self.tensors.items() if key.startswith("weights/")}
        model.load_state_dict(state)
        return model.to(dtype).eval()

    def methods(self) -> list[str]:
        """Names below relevance/, in order; a name may have a second part (which call, which block) in the key."""
        return list(dict.fromkeys(key.split("/")[1] for key in self.tensors if key.startswith("relevance/")))

    def reference(self, case: Case, dtype: torch.dtype) -> Tensor | None:
        """Of the reference run in `dtype`; None if the file has the tensor of its float32 run only.

        A file has a float64 run below f64/, or else all its tensors come from one.
        """
        apart = any(key.startswith("f64/") for key in self.tensors)
        found = self.tensors.get(f"f64/{case.key}" if apart and dtype == torch.float64 else case.key)
        return found if found is None or case.sample is None else found[case.sample]

    def limit(self, case: Case, dtype: torch.dtype) -> float:
        """The tolerance; in float32 at least twice what the reference itself is off from its float64 run, where known.

        For LRP that is what it is off anywhere in the file: another order of operations moves the rounding elsewhere.
        """
        if dtype == torch.float64:
            return TOLERANCES[dtype]
        own = json.loads(self.metadata.get("float32_rel_err", "{}"))
        if case.lrp:
            return max(LRP_FLOAT32, 2 * max(own.values(), default=0.0))
        return max(TOLERANCES[dtype], 2 * own.get(case.key, 0.0))


def error(case: Case, reference: Tensor) -> float:
    """The largest max|x - ref| / max|ref| over samples and targets; NaN agrees with NaN, and zero only with zero."""
    ours, reference = case.ours.detach(), reference.double()
    # a sum with the identity has lost digits when the file was written in float32; ours must lose the same
    ours = ours.float().double() if case.without_identity else ours.double()
    if ours.shape != reference.shape:
        raise ValueError(f"{case.key}: ours has shape {list(ours.shape)}, the reference {list(reference.shape)}")
    if case.without_identity:
        eye = torch.eye(ours.shape[-1], dtype=ours.dtype) * (reference.diagonal(dim1=-2, dim2=-1) != 0)[..., None]
        ours, reference = ours - eye, reference - eye
    both = ours.isnan() & reference.isnan()
    ours, reference = ours.masked_fill(both, 0), reference.masked_fill(both, 0)
    ours, reference = (t.reshape(*t.shape[: case.lead], -1) for t in (ours, reference))
    size = reference.abs().amax(-1)
    off = (ours - reference).abs().amax(-1)
    relative = (off / size).masked_fill((size == 0) & (off == 0), 0)
    return float(relative.nan_to_num(nan=torch.inf).max())


def minmax(x: Tensor, dims: int) -> Tensor:
    """The last `dims` axes moved to [0, 1]; NaN where all are equal, as published."""
    flat = x.flatten(-dims)
    low, high = (bound.reshape(*bound.shape, *[1] * dims) for bound in (flat.amin(-1), flat.amax(-1)))
    return (x - low) / (high - low)
