"""Errors that help: they name what was given and the nearest thing that exists."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is none of `known`, with the nearest of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:20])}"
    return ValueError(f"unknown {kind} {name!r}; {hint}")
