"""Explains the attention models of others and ours: one recording of a forward pass, many methods."""

from xai.adapters import adapter_for
from xai.explain import METHODS, explain, explain_recording
from xai.explainers import EXPLAINERS
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
    "PropagationError",
    "RecordingError",
    "Relevance",
    "Site",
    "Target",
    "adapter_for",
    "detection",
    "difference",
    "explain",
    "explain_recording",
    "given",
    "predicted",
    "record",
    "similarity",
    "token",
]
