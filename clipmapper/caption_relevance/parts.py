"""Measured batches as JSON, so that a killed run goes on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from clipmapper.caption_relevance.measure import Measured


def plain(measured: Measured) -> dict[str, Any]:
    """Undefined figures are NaN, as Python writes it."""
    return {
        "words": measured.words,
        "in_words": None if measured.in_words is None else measured.in_words.tolist(),
        "in_whole": None if measured.in_whole is None else measured.in_whole.tolist(),
        "unnamed": measured.unnamed,
        "curves": {name: curves.tolist() for name, curves in measured.curves.items()},
        "errors": measured.errors,
    }


def from_plain(values: Mapping[str, Any]) -> Measured:
    """What `plain` was made of."""
    in_words, in_whole = (None if values[name] is None else np.array(values[name]) for name in ("in_words", "in_whole"))
    curves = {name: torch.tensor(curve) for name, curve in values["curves"].items()}
    return Measured(values["words"], in_words, in_whole, values["unnamed"], curves, values["errors"])
