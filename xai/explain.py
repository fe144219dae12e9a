"""From a model and its inputs to relevance in one call."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai.adapter import Adapter
from xai.adapters import adapter_for
from xai.explainers import EXPLAINERS, IGNORE_TARGET, LRP_EXPLAINERS, PIXEL_EXPLAINERS, RULES
from xai.intercept import record
from xai.lrp.conservation import Conservation, conservation
from xai.lrp.mode import PropagationError
from xai.lrp.modified_gradient import with_gamma
from xai.relevance import read_out
from xai.result import Relevance
from xai.tape import Score, Tape
from xai.targets import predicted

T = TypeVar("T")
Lrp = Literal["tokens", "pixels"] | None  # the rules for relevance with which a pass is recorded

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
    name = None if method in IGNORE_TARGET else _name(target)
    return _of_tokens(tape, scores, method, options, name, kept)


def explain_each(
    tape: Tape, methods: Sequence[str], target: Score | None = None
) -> tuple[dict[str, Relevance], dict[str, str]]:
    """By several methods; the scores of one that raises are NaN, so that it costs the others nothing, and why is told second."""
    found: dict[str, Relevance] = {}
    errors: dict[str, str] = {}
    for method in methods:
        try:
            found[method] = explain_tape(tape, method, target)
        except Exception as error:
            errors[method] = f"{type(error).__name__}: {error}"
            nothing = torch.full(tape.real.shape, torch.nan, device=tape.real.device)
            found[method] = _of_tokens(tape, nothing, method, {}, None)
    return found, errors


def record_for(methods: Sequence[str], recorded: Callable[[Lrp], T]) -> T:
    """What `recorded` gives for the `lrp` that the methods need; without, where the model has operations without rules.

    The methods that need rules then say so by themselves.
    """
    try:
        return recorded(lrp_of(*methods))
    except PropagationError:
        return recorded(None)


def lrp_of(*methods: str) -> Lrp:
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


def _name(target: Score) -> str:
    return getattr(target, "name", repr(target))


def _of_tokens(
    tape: Tape,
    scores: Tensor,
    method: str,
    options: dict[str, Any],
    target: str | None,
    kept: Conservation | None = None,
) -> Relevance:
    """Scores [B, N] over the joint sequence, modality by modality."""
    by_modality, real, special = (
        {modality: joint[:, where] for modality, where in tape.modalities.items()}
        for joint in (scores, tape.real, tape.special)
    )
    return Relevance(by_modality, real, special, tape.grids, method, options, target, conservation=kept)


def _of_pixels(
    scores: Tensor, method: str, options: dict[str, Any], target: Score, kept: Conservation | None
) -> Relevance:
    """Pixels as the tokens of a modality of that name."""
    flat = scores.flatten(1)
    real = torch.ones_like(flat, dtype=torch.bool)
    grid = (int(scores.shape[1]), int(scores.shape[2]))
    everywhere, nowhere = {"pixels": real}, {"pixels": ~real}
    return Relevance(
        {"pixels": flat}, everywhere, nowhere, {"pixels": grid}, method, options, _name(target), conservation=kept
    )
