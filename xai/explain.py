"""From a model and its inputs to relevance in one call."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from xai.adapter import Adapter
from xai.adapters import adapter_for
from xai.explainers import EXPLAINERS, IGNORE_TARGET
from xai.intercept import record
from xai.relevance import read_out
from xai.result import Relevance
from xai.tape import Score, Tape
from xai.targets import predicted


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor,
    method: str = "wra",
    target: Score | None = None,
    adapter: Adapter | None = None,
    **options: Any,
) -> Relevance:
    """Relevance of the inputs for `target`, by default the predicted class, by one of `EXPLAINERS` with its options.

    `inputs` are the arguments of the model's forward, by name or in order. Raises ValueError for an unknown method,
    TypeError for a model without adapter, RecordingError for one whose attentions cannot be recorded.
    """
    _check(method)
    with record(model, adapter or adapter_for(model)) as recording:
        if isinstance(inputs, Mapping):
            model(**inputs)
        else:
            model(*([inputs] if isinstance(inputs, Tensor) else inputs))
    return explain_tape(recording.tape, method, target, **options)


def explain_tape(tape: Tape, method: str = "wra", target: Score | None = None, **options: Any) -> Relevance:
    """As `explain`, of a pass already recorded: methods share its forward pass, and those of one target its backward."""
    _check(method)
    target = target or predicted()
    tape.score(target)
    scores = read_out(tape, EXPLAINERS[method](tape, target, **options), target)
    name = None if method in IGNORE_TARGET else getattr(target, "name", repr(target))
    by_modality = {modality: scores[:, where] for modality, where in tape.modalities.items()}
    real = {modality: tape.real[:, where] for modality, where in tape.modalities.items()}
    return Relevance(by_modality, real, method, options, name)


def _check(method: str) -> None:
    if method not in EXPLAINERS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(EXPLAINERS)}")
