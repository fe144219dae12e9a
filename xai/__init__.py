"""Explains the attention models of others and ours: one recording of a forward pass, many methods."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xai.adapters import adapter_for
    from xai.explainers import EXPLAINERS, METHODS, Method, register
    from xai.explanation import explain, explain_each, explain_recording, explain_tape
    from xai.generation.explain import explain_generated
    from xai.generation.memory import explanation_memory
    from xai.lrp.mode import PropagationError
    from xai.recording.adapter import Adapter, Layout, Site
    from xai.recording.assemble import RecordingError
    from xai.recording.record import record
    from xai.results.relevance import Relevance
    from xai.targets import Target, detection, difference, given, predicted, similarity, token

__all__ = [
    "EXPLAINERS",
    "METHODS",
    "Adapter",
    "Layout",
    "Method",
    "PropagationError",
    "RecordingError",
    "Relevance",
    "Site",
    "Target",
    "adapter_for",
    "detection",
    "difference",
    "explain",
    "explain_each",
    "explain_generated",
    "explain_recording",
    "explain_tape",
    "explanation_memory",
    "given",
    "predicted",
    "record",
    "register",
    "similarity",
    "token",
]

_HOMES = {
    "xai.adapters": ("adapter_for",),
    "xai.explanation": (
        "explain",
        "explain_each",
        "explain_recording",
        "explain_tape",
    ),
    "xai.explainers": (
        "EXPLAINERS",
        "METHODS",
        "Method",
        "register",
    ),
    "xai.generation.explain": ("explain_generated",),
    "xai.generation.memory": ("explanation_memory",),
    "xai.lrp.mode": ("PropagationError",),
    "xai.recording.adapter": (
        "Adapter",
        "Layout",
        "Site",
    ),
    "xai.recording.assemble": ("RecordingError",),
    "xai.recording.record": ("record",),
    "xai.results.relevance": ("Relevance",),
    "xai.targets": (
        "Target",
        "detection",
        "difference",
        "given",
        "predicted",
        "similarity",
        "token",
    ),
}


def __getattr__(name: str) -> Any:  # a name's module is imported when it is first asked for: files.py alone needs none
    for module, names in _HOMES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'xai' has no attribute {name!r}")
