"""Registry of the methods by name: those that are here, those of installed packages, and one's own."""

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from xai.explainers.method import Method
from xai.explainers.table import OWN

METHODS: dict[str, Method] = {method.name: method for method in OWN}
"""All methods that `explain` and the command line know by name."""

ENTRY_POINTS = "xai.explainers"  # the group by which installed packages add methods


def register(method: Method) -> Method:
    """Adds a method to those that `explain` and the command line know by name.

    Args:
        method: with a name of its own; the same method may be registered again.

    Returns:
        The method.

    Raises:
        ValueError: another method has the name.

    Example:
        >>> from xai import METHODS, Method, register
        >>> def even(recording, target):  # scores [B, T]
        ...     return recording.mask / recording.mask.sum(dim=1, keepdim=True)
        >>> register(Method("even", even, class_agnostic=True)).name
        'even'
        >>> del METHODS["even"]
    """
    if METHODS.get(method.name, method) != method:
        raise ValueError(f"there is a method {method.name!r} already; give yours another name")
    METHODS[method.name] = method
    return method


def method_named(name: str) -> Method:
    """Returns the method of a name.

    Args:
        name: that of a registered method, of an entry point of the group `xai.explainers` of an installed package, or
            `module:function`, where the function is an explainer or the name a `Method`.

    Raises:
        ValueError: there is no such method; names the nearest one.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return register(_imported(name))
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return register(_as_method(point.load(), name))
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}"
    raise ValueError(f"unknown method {name!r}; {hint} Your own is named module:function")


def as_method(method: "str | Method | Callable[..., Tensor]") -> Method:
    """Returns a method from its name, from itself, or from a function `(recording, target, **options)`."""
    if isinstance(method, Method):
        return method
    return method_named(method) if isinstance(method, str) else _as_method(method, _name_of(method))


def _imported(name: str) -> Method:
    module, _, attribute = name.partition(":")
    try:
        return _as_method(getattr(importlib.import_module(module), attribute), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} cannot be imported ({error}); give module:function") from error


def _as_method(value: Any, name: str) -> Method:
    if isinstance(value, Method):
        return value
    if not callable(value):
        raise ValueError(f"method {name!r} is a {type(value).__name__}; give a function (recording, target, **options)")
    return Method(name, value)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
