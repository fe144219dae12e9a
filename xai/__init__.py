"""Explains the attention models of others and ours: one recording of a forward pass, many methods."""

from xai.adapter import Adapter, Layout, Site
from xai.adapters import adapter_for
from xai.assemble import RecordingError
from xai.explain import METHODS, explain, explain_tape
from xai.explainers import EXPLAINERS
from xai.intercept import record
from xai.lrp.mode import PropagationError
from xai.result import Relevance
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
    "explain_tape",
    "given",
    "predicted",
    "record",
    "similarity",
    "token",
]
