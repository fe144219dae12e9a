"""Explains the attention models of others and ours: one recording of a forward pass, many methods."""

from xai.adapters import adapter_for
from xai.explain import explain, explain_each, explain_recording, explain_tape
from xai.explainers import EXPLAINERS, METHODS, Method, register
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
    "explain_recording",
    "explain_tape",
    "given",
    "predicted",
    "record",
    "register",
    "similarity",
    "token",
]
