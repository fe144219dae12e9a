"""From a model and its inputs to relevance in one call."""

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai.adapters import adapter_for
from xai.explainers.algebra import readout_scores, shared_scores
from xai.explainers.registry import METHODS, Method, as_method
from xai.lrp.conservation import Conservation, conservation
from xai.lrp.mode import PropagationError
from xai.recording.adapter import Adapter
from xai.recording.assemble import RecordingError
from xai.recording.checks import beyond, plain, unwrapped
from xai.recording.reads import EVERYTHING, Reads, together
from xai.recording.record import record
from xai.recording.recording import Recording, Score
from xai.results.modality import ModalityRelevance
from xai.results.relevance import Relevance
from xai.targets import predicted

T = TypeVar("T")
Named = str | Method | Callable[..., Tensor]  # how a method may be given
RAISED = (ValueError, TypeError, RuntimeError, ArithmeticError, PropagationError, RecordingError)  # by methods

RECOMMENDED = "consensus"  # what explains where no method is named (docs/which-explainer-is-right.md)
WITHOUT_RULES = "wra"  # in its place, of models with operations that have no rule for relevance

log = logging.getLogger("xai")


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor,
    method: Named | None = None,
    target: Score | None = None,
    adapter: Adapter | None = None,
    check: bool | float = False,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Relevance:
    """Computes how much each input token matters for a target.

    Args:
        model: an attention model; its mode, parameters and hooks are left as they were. Of one that is wrapped for several
            devices or compiled, the model inside is explained.
        inputs: the arguments of the model's forward, by name or in order, with a batch of B samples; what a tokenizer or
            processor returns will do.
        method: a name of `xai.METHODS`, "module:function", a `Method`, or a function (recording, target, **options) to a
            map [B, T, T] or scores [B, T]. None for the recommended one, `RECOMMENDED`; of a model with an operation that has
            no rule for relevance, `WITHOUT_RULES`, which a warning says.
        target: from the model's outputs to one number a sample, [B]; None for the predicted class.
        adapter: where the model's attentions are; None for what `adapter_for(model, inputs)` finds.
        check: of a method that propagates relevance, adds the `conservation` of relevance layer by layer to the result; a
            number is the share that a layer may lose, True the tolerance of the method's rules.
        dtype: a copy of the model in this type is explained; LRP is best in float64 (docs/lrp.md).
        options: of the method.

    Returns:
        Scores [B, tokens] for each modality, in the method's own unit.

    Raises:
        ValueError: an unknown method, or a target that is not one finite number a sample.
        TypeError: a model for which no adapter is found, or lists of numbers in place of tensors.
        RecordingError: attentions that cannot be recorded; names the module.
        PropagationError: an operation that has no rule, or a layer that loses more relevance than the tolerance.

    Source:
        That of the method, `METHODS[method].source`.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from xai import explain, given
        >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
        >>> relevance = explain(model, {"pixel_values": torch.rand(1, 3, 32, 32)}, method="genatt", target=given(1))
        >>> relevance.map("image").shape
        torch.Size([1, 4, 4])
    """
    model, inputs = unwrapped(model), plain(inputs)
    if dtype is not None:
        model, inputs = deepcopy(model).to(dtype), tree_map(lambda value: _cast(value, dtype), inputs)

    def run(reads: Reads) -> Recording:
        needed = reads if check is False else together([reads])  # the check has a backward pass of its own
        with record(model, adapter or adapter_for(model, inputs), needed) as recorder:
            if isinstance(inputs, dict):
                model(**inputs)
            else:
                model(*([inputs] if isinstance(inputs, Tensor) else inputs))
        return recorder.recording

    try:
        known, recording = recorded_by(method, options, run)
    except (IndexError, RuntimeError) as error:  # what torch says of a position or a token that is not there
        if reason := beyond(model, inputs):
            raise ValueError(f"inputs: {reason}") from error
        raise
    return explain_recording(recording, known, target, check, **options)


def explain_recording(
    recording: Recording,
    method: Named | None = None,
    target: Score | None = None,
    check: bool | float = False,
    **options: Any,
) -> Relevance:
    """Computes relevance from a pass already recorded: methods share its forward pass, and those of one target its backward.

    Args:
        recording: one forward pass; methods with rules and gradients by them need `record(..., lrp="tokens")`, those of pixels
            `lrp="pixels"`.
        method: as of `explain`; None for `WITHOUT_RULES` where the recording has none.
        target: as of `explain`.
        check: as of `explain`.
        options: of the method.

    Returns:
        As `explain`.

    Raises:
        ValueError, PropagationError: as `explain`.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from xai import adapter_for, explain_recording, given, record
        >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
        >>> with record(model, adapter_for(model)) as recorder:
        ...     logits = model(torch.rand(1, 3, 32, 32)).logits
        >>> [explain_recording(recorder.recording, name, given(0)).method for name in ("wra", "rollout")]
        ['wra', 'rollout']
    """
    if method is None:
        method = WITHOUT_RULES if recording.propagation is None else RECOMMENDED
    known, target = as_method(method), target or predicted()
    recording.score(target)
    flow = _conservation(recording, known, target, check, options) if check is not False else None
    scores = known.function(recording, target, **options)
    name = None if known.class_agnostic else _name(target)
    if known.start == "pixels":
        return _of_pixels(scores, known.name, options, name, flow)
    pairs = None if known.pairs is None else _pairs(recording, scores.detach())
    scores = shared_scores(scores) if known.pairs == "shared" else scores
    found = _of_tokens(recording, readout_scores(recording, scores, target).detach(), known.name, options, name, flow)
    return replace(found, pairs=pairs)


explain_tape = explain_recording
"""An alias of `explain_recording`: its name until 0.1, which users' scripts still have."""


def explain_each(
    recording: Recording, methods: Sequence[Named], target: Score | None = None, cheap: bool = False
) -> tuple[dict[str, Relevance], dict[str, str]]:
    """Computes relevance by several methods, of which one that fails costs the others nothing.

    Args:
        recording: one forward pass.
        methods: as of `explain`.
        target: as of `explain`.
        cheap: takes the methods' options of a rough but faster run.

    Returns:
        The relevance by method, NaN for one that failed, and why those failed. Each failure is logged with its traceback.

    Raises:
        torch.OutOfMemoryError: there is not enough memory; that is no failure of a method.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from xai import adapter_for, explain_each, record
        >>> sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
        >>> with record(model, adapter_for(model)) as recorder:
        ...     logits = model(torch.rand(1, 3, 32, 32)).logits
        >>> relevances, errors = explain_each(recorder.recording, ["genatt", "legrad"])
        >>> list(relevances), errors
        (['genatt', 'legrad'], {})
    """
    relevances: dict[str, Relevance] = {}
    errors: dict[str, str] = {}
    for known in map(as_method, methods):
        try:
            options = known.cheap if cheap else {}
            relevances[known.name] = explain_recording(recording, known, target, **options)
        except torch.OutOfMemoryError:
            raise
        except RAISED as error:
            _log_once(known.name, error)
            errors[known.name] = f"{type(error).__name__}: {error}"
            undefined = torch.full(recording.mask.shape, torch.nan, device=recording.mask.device)
            relevances[known.name] = _of_tokens(recording, undefined, known.name, {}, None)
    return relevances, errors


def recorded_by(
    method: Named | None, options: Mapping[str, Any], run: Callable[[Reads], Recording]
) -> tuple[Method, Recording]:
    """Records one pass for a method.

    Args:
        method: as of `explain`; None for the recommended one.
        options: of the method.
        run: records what is read.

    Returns:
        The method, and the recording. The method is `WITHOUT_RULES` where none was given and the model has operations without
        rules, which is logged.
    """
    known = as_method(RECOMMENDED if method is None else method)
    try:
        return known, run(known.needs(options))
    except PropagationError as error:
        if method is not None:
            raise
        log.warning("explained by %s in the place of %s: %s", WITHOUT_RULES, RECOMMENDED, error)
        fallback = as_method(WITHOUT_RULES)
        return fallback, run(fallback.needs())


def record_for(methods: Sequence[Named], run: Callable[[Reads], T]) -> T:
    """Records one pass for several methods.

    Args:
        methods: as of `explain`.
        run: records what is read.

    Returns:
        What `run` returns for the rules that the methods need; without rules, where the model has operations that
        have none. Methods that need rules then fail by themselves.
    """
    reads = together(as_method(method).needs() for method in methods) if methods else EVERYTHING
    try:
        return run(reads)
    except PropagationError:
        return run(replace(reads, lrp=None))


_logged: set[tuple[str, str]] = set()


def _log_once(name: str, error: Exception) -> None:
    key = name, f"{type(error).__name__}: {error}"
    if key not in _logged:
        _logged.add(key)
        log.warning("method %s failed: %s", name, error, exc_info=error)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _conservation(
    recording: Recording, method: Method, target: Score, check: bool | float, options: Mapping[str, Any]
) -> Conservation:
    rules = method.table(options)
    if rules is None:
        with_rules = ", ".join(name for name, known in METHODS.items() if known.rules is not None)
        raise ValueError(f"check is for methods that propagate relevance: {with_rules}")
    flow = conservation(recording, target, rules)
    flow.check(rules.tolerance if check is True else check)
    return flow


def _name(target: Score) -> str:
    return getattr(target, "name", repr(target))


def _of_tokens(
    recording: Recording,
    scores: Tensor,
    method: str,
    options: dict[str, Any],
    target: str | None,
    flow: Conservation | None = None,
) -> Relevance:
    """Cuts scores [B, T] over the joint sequence into modalities."""
    parts = {
        name: ModalityRelevance(
            scores[:, where], recording.mask[:, where], recording.special[:, where], recording.grids.get(name)
        )
        for name, where in recording.inputs.items()
    }
    return Relevance(parts, method, options, target, flow)


def _pairs(recording: Recording, values: Tensor) -> dict[tuple[str, str], Tensor]:
    """Cuts a map [B, T, T] of pairs into modalities. Padding is in no pair."""
    values = values * recording.mask[:, :, None] * recording.mask[:, None]
    parts = recording.inputs.items()
    return {(first, second): values[:, rows][:, :, columns] for first, rows in parts for second, columns in parts}


def _of_pixels(
    scores: Tensor, method: str, options: dict[str, Any], target: str | None, flow: Conservation | None
) -> Relevance:
    """Takes pixels for the tokens of a modality of that name."""
    flat = scores.flatten(1)
    mask = torch.ones_like(flat, dtype=torch.bool)
    part = ModalityRelevance(flat, mask, ~mask, (int(scores.shape[1]), int(scores.shape[2])))
    return Relevance({"pixels": part}, method, options, target, flow)
