"""Errors that help: they name what was given and the nearest thing that exists."""

import difflib
import re
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


def told(error: Exception) -> str:
    """An error's own words; before those of one that a loader's process raised, torch puts the traceback."""
    traceback = re.match(
        r"Caught (\w+) in .*?\.\nOriginal Traceback .*^[\w.]*\1: (.*)", str(error), re.DOTALL | re.MULTILINE
    )
    return traceback[2].strip() if traceback else str(error)
