"""Explains the attention models of others and ours: one recording of a forward pass, many methods."""

from xai.adapter import Adapter, Layout, Site
from xai.adapters import adapter_for
from xai.assemble import RecordingError
from xai.explain import explain, explain_tape
from xai.explainers import EXPLAINERS
from xai.intercept import record
from xai.result import Relevance
from xai.targets import Target, detection, difference, given, predicted, similarity, token

__all__ = [
    "EXPLAINERS",
    "Adapter",
    "Layout",
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
