"""Protocols, which say what exactly a perturbation figure was measured by. Those of different ones are never compared."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

SCHEDULES: dict[str, tuple[float, ...]] = {  # shares of the removable tokens that are removed
    "wra": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 1.0),
    "genatt": (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0),
    "transatt": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "both_ends": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0),
}
Removal = Literal["drop", "attention_mask", "mask_token", "mean", "zero", "blur"]
Direction = Literal["positive", "negative"]
DIRECTIONS: tuple[Direction, ...] = ("positive", "negative")  # most relevant first, least relevant first


@dataclass(frozen=True)
class Protocol:
    """Rule by which tokens of one modality are removed; the others stay whole. Stored with each figure.

    Attributes:
        schedule: a name of `SCHEDULES`: the shares of the removable tokens that are removed.
        removal: what happens to a removed token.
        modality: whose tokens are removed.
        direction: a run measures both; `dataclasses.replace(protocol, direction="positive")` names the figure of one.
        integrator: by which a curve becomes an area.

    Raises:
        ValueError: an unknown schedule; names the known ones.

    Example:
        >>> from xai.metrics.protocols import Protocol
        >>> Protocol("genatt", "drop", "text").shares[:3]
        (0.0, 0.25, 0.5)
    """

    schedule: str
    removal: Removal
    modality: str
    direction: Literal["positive", "negative", "both"] = "both"
    integrator: str = "trapezoid over the share removed, range normalised to 1"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")

    @property
    def shares(self) -> tuple[float, ...]:
        return SCHEDULES[self.schedule]

    def record(self) -> dict[str, Any]:
        """Returns the fields and the shares they stand for, as plain values for JSON."""
        return {**asdict(self), "shares": list(self.shares)}


PROTOCOLS: dict[str, tuple[str, Removal]] = {
    "wra": ("wra", "drop"),
    "genatt": ("genatt", "drop"),
    "transatt": ("transatt", "zero"),  # of pixels before normalisation: black
    "recommended": ("both_ends", "drop"),
}


def named(name: str, modality: str) -> Protocol:
    """Returns the protocol of a paper, or the recommended one.

    `recommended` drops tokens, so that the model sees nothing that is no token of its own, on the union of the grids
    of WRA and GenAtt. WRA's resolves only the start, where positive curves fall, and GenAtt's only the end, where
    negative curves do; the union treats both directions alike, as SRG needs, and holds both papers' steps, so their
    areas follow from its curves.

    Args:
        name: `wra`, `genatt`, `transatt` or `recommended`.
        modality: whose tokens are removed.

    Raises:
        ValueError: an unknown name; names the known ones.

    Source:
        WRA §4.3.2, GenAtt §5, TransAtt §4; SRG: Blücher et al. 2024.

    Example:
        >>> from xai.metrics.protocols import named
        >>> named("transatt", "image").removal
        'zero'
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    schedule, removal = PROTOCOLS[name]
    return Protocol(schedule, removal, modality)


def kept_counts(removable: Int[Tensor, " B"], shares: tuple[float, ...]) -> Int[Tensor, "B steps"]:
    """Counts the tokens that stay at each step: int((1 - share) * n) in double precision.

    As published, rounding errors included: int((1 - 0.8) * 10) is 1.

    Args:
        removable: [B], the number n of removable tokens.
        shares: that are removed, one a step.

    Returns:
        [B, steps].

    Example:
        >>> import torch
        >>> from xai.metrics.protocols import kept_counts
        >>> kept_counts(torch.tensor([10]), (0.0, 0.5, 0.8)).tolist()
        [[10, 5, 1]]
    """
    remaining = 1 - torch.tensor(shares, dtype=torch.float64, device=removable.device)
    return (remaining * removable[..., None]).long()


def area(curves: Float[Tensor, "*axes steps"], shares: tuple[float, ...]) -> Float[Tensor, "*axes"]:
    """Integrates curves over the share removed by the trapezoid rule, the range of shares normalised to 1.

    Args:
        curves: [..., steps].
        shares: one a step, ascending.

    Returns:
        [...], in the unit of the curves.

    Example:
        >>> import torch
        >>> from xai.metrics.protocols import area
        >>> area(torch.tensor([1.0, 0.5, 0.0]), (0.0, 0.5, 1.0)).item()
        0.5
    """
    x = torch.tensor(shares, dtype=torch.float64, device=curves.device)
    return (torch.trapezoid(curves.double(), x, dim=-1) / (x[-1] - x[0])).to(curves.dtype)
