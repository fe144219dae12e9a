"""From a model and its inputs to relevance in one call."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai.adapters import adapter_for
from xai.explainers import EXPLAINERS, IGNORE_TARGET, LRP_EXPLAINERS, PIXEL_EXPLAINERS, RULES
from xai.explainers.algebra import readout_scores
from xai.lrp.conservation import Conservation, conservation
from xai.lrp.mode import PropagationError
from xai.lrp.modified_gradient import with_gamma
from xai.recording.adapter import Adapter
from xai.recording.record import record
from xai.recording.recording import Recording, Score
from xai.results.relevance import Relevance
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
    with record(model, adapter or adapter_for(model), lrp_of(method)) as recorder:
        if isinstance(inputs, Mapping):
            model(**inputs)
        else:
            model(*([inputs] if isinstance(inputs, Tensor) else inputs))
    return explain_recording(recorder.recording, method, target, check, **options)


def explain_recording(
    recording: Recording, method: str = "wra", target: Score | None = None, check: bool | float = False, **options: Any
) -> Relevance:
    """As `explain`, of a pass already recorded: methods share its forward pass, and those of one target its backward.

    LRP methods need a recording recorded with `lrp="tokens"`, `pixel_lrp` one with `lrp="pixels"`.
    """
    _check(method)
    target = target or predicted()
    recording.score(target)
    kept = _kept(recording, method, target, check, options) if check is not False else None
    if method in PIXEL_EXPLAINERS:
        return _of_pixels(PIXEL_EXPLAINERS[method](recording, target, **options), method, options, target, kept)
    scores = readout_scores(recording, METHODS[method](recording, target, **options), target).detach()
    name = None if method in IGNORE_TARGET else _name(target)
    return _of_tokens(recording, scores, method, options, name, kept)


def explain_each(
    recording: Recording, methods: Sequence[str], target: Score | None = None
) -> tuple[dict[str, Relevance], dict[str, str]]:
    """By several methods; the scores of one that raises are NaN, so that it costs the others nothing, and why is told second."""
    found: dict[str, Relevance] = {}
    errors: dict[str, str] = {}
    for method in methods:
        try:
            found[method] = explain_recording(recording, method, target)
        except Exception as error:
            errors[method] = f"{type(error).__name__}: {error}"
            nothing = torch.full(recording.mask.shape, torch.nan, device=recording.mask.device)
            found[method] = _of_tokens(recording, nothing, method, {}, None)
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


def _kept(
    recording: Recording, method: str, target: Score, check: bool | float, options: Mapping[str, Any]
) -> Conservation:
    if method not in RULES:
        raise ValueError(f"check is for methods that propagate relevance: {', '.join(RULES)}")
    rules = with_gamma(RULES[method], options.get("gamma", 0.0))
    found = conservation(recording, target, rules)
    found.check(rules.tolerance if check is True else check)
    return found


def _name(target: Score) -> str:
    return getattr(target, "name", repr(target))


def _of_tokens(
    recording: Recording,
    scores: Tensor,
    method: str,
    options: dict[str, Any],
    target: str | None,
    kept: Conservation | None = None,
) -> Relevance:
    """Scores [B, N] over the joint sequence, modality by modality."""
    by_modality, mask, special = (
        {modality: joint[:, where] for modality, where in recording.modalities.items()}
        for joint in (scores, recording.mask, recording.special)
    )
    return Relevance(by_modality, mask, special, recording.grids, method, options, target, conservation=kept)


def _of_pixels(
    scores: Tensor, method: str, options: dict[str, Any], target: Score, kept: Conservation | None
) -> Relevance:
    """Pixels as the tokens of a modality of that name."""
    flat = scores.flatten(1)
    mask = torch.ones_like(flat, dtype=torch.bool)
    grid = (int(scores.shape[1]), int(scores.shape[2]))
    everywhere, nowhere = {"pixels": mask}, {"pixels": ~mask}
    return Relevance(
        {"pixels": flat}, everywhere, nowhere, {"pixels": grid}, method, options, _name(target), conservation=kept
    )
