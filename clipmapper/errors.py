"""Errors that help: they name what was given and the nearest thing that exists."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if one is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is none of `known`, with the nearest of them."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(names[:20])}"
    return ValueError(f"unknown {kind} {name!r}; {hint}")
