"""From a model and its inputs to relevance in one call."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai.adapter import Adapter
from xai.adapters import adapter_for
from xai.explainers import EXPLAINERS, IGNORE_TARGET, LRP_EXPLAINERS, PIXEL_EXPLAINERS, RULES
from xai.intercept import record
from xai.lrp.conservation import Conservation, conservation
from xai.lrp.modified_gradient import with_gamma
from xai.relevance import read_out
from xai.result import Relevance
from xai.tape import Score, Tape
from xai.targets import predicted

METHODS = {**EXPLAINERS, **LRP_EXPLAINERS, **PIXEL_EXPLAINERS}


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor,
    method: str = "wra",
    target: Score | None = None,
    adapter: Adapter | None = None,
    check: bool | float = False,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Relevance:
    """Relevance of the inputs for `target`, by default the predicted class, by one of `METHODS` with its options.

    `inputs` are the arguments of the model's forward, by name or in order. With `check`, of an LRP method, the result has
    the `conservation` of relevance, layer by layer; True is the tolerance of the method's rules. With `dtype`, a copy of the
    model in that type is explained: LRP is best in float64 (docs/lrp.md).

    Raises ValueError for an unknown method, TypeError for a model without adapter, RecordingError for one whose attentions
    cannot be recorded, PropagationError for one with an operation that has no rule, and if a layer loses more relevance
    than the tolerance.
    """
    _check(method)
    if dtype is not None:
        model, inputs = deepcopy(model).to(dtype), tree_map(lambda value: _cast(value, dtype), inputs)
    with record(model, adapter or adapter_for(model), lrp_of(method)) as recording:
        if isinstance(inputs, Mapping):
            model(**inputs)
        else:
            model(*([inputs] if isinstance(inputs, Tensor) else inputs))
    return explain_tape(recording.tape, method, target, check, **options)


def explain_tape(
    tape: Tape, method: str = "wra", target: Score | None = None, check: bool | float = False, **options: Any
) -> Relevance:
    """As `explain`, of a pass already recorded: methods share its forward pass, and those of one target its backward.

    LRP methods need a tape recorded with `lrp="tokens"`, `pixel_lrp` one with `lrp="pixels"`.
    """
    _check(method)
    target = target or predicted()
    tape.score(target)
    kept = _kept(tape, method, target, check, options) if check is not False else None
    if method in PIXEL_EXPLAINERS:
        return _of_pixels(PIXEL_EXPLAINERS[method](tape, target, **options), method, options, target, kept)
    scores = read_out(tape, METHODS[method](tape, target, **options), target).detach()
    name = None if method in IGNORE_TARGET else getattr(target, "name", repr(target))
    by_modality, real, special = (
        {modality: joint[:, where] for modality, where in tape.modalities.items()}
        for joint in (scores, tape.real, tape.special)
    )
    return Relevance(by_modality, real, special, tape.grids, method, options, name, conservation=kept)


def lrp_of(*methods: str) -> Literal["tokens", "pixels"] | None:
    """The `lrp` with which to record for some methods."""
    if PIXEL_EXPLAINERS.keys() & set(methods):
        return "pixels"
    return "tokens" if LRP_EXPLAINERS.keys() & set(methods) else None


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _kept(tape: Tape, method: str, target: Score, check: bool | float, options: Mapping[str, Any]) -> Conservation:
    if method not in RULES:
        raise ValueError(f"check is for methods that propagate relevance: {', '.join(RULES)}")
    rules = with_gamma(RULES[method], options.get("gamma", 0.0))
    found = conservation(tape, target, rules)
    found.check(rules.tolerance if check is True else check)
    return found


def _of_pixels(
    scores: Tensor, method: str, options: dict[str, Any], target: Score, kept: Conservation | None
) -> Relevance:
    """Pixels as the tokens of a modality of that name."""
    flat = scores.flatten(1)
    real = torch.ones_like(flat, dtype=torch.bool)
    grid = (int(scores.shape[1]), int(scores.shape[2]))
    name = getattr(target, "name", repr(target))
    found = Relevance({"pixels": flat}, {"pixels": real}, {"pixels": ~real}, {"pixels": grid}, method, options, name)
    return replace(found, conservation=kept)
