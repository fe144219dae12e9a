"""Checks of settings."""

from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from clipmapper.errors import unknown

T = TypeVar("T")


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raises ValueError, naming the setting and what it must be, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} is {value!r} and must be {wanted}")


def restored(kind: type[T], values: Any, source: str) -> T:
    """The settings that a file says. Raises ValueError, naming `source`, for an unknown one, and for one of another type."""
    if not isinstance(values, dict):
        raise ValueError(f"{source}: its settings are a {type(values).__name__}; save or fetch it anew")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{source}: {unknown('setting', str(name), hints)}")
        if not _is_of(value, hints[name]):
            raise ValueError(f"{source}: {name} is {str(value)[:80]!r}; save or fetch it anew")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type as settings have them."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_args(hint):
        return any(_is_of(value, part) for part in get_args(hint))
    return type(value) in ((int, float) if hint is float else (hint,))
