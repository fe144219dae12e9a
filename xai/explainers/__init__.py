"""Explainers: functions (recording, target, options) to a map [B, T, T] or, where there is none, scores [B, T]."""

from collections.abc import Callable

from torch import Tensor

from xai.explainers.registry import METHODS, Method, as_method, method_named, register

EXPLAINERS: dict[str, Callable[..., Tensor]] = {
    name: method.function for name, method in METHODS.items() if method.rules is None and not method.models
}
"""The functions of the methods for all models, without rules for relevance, by name."""

__all__ = ["EXPLAINERS", "METHODS", "Method", "as_method", "method_named", "register"]
