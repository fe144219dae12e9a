"""Errors that help: they name what was given and the nearest thing that exists."""

import difflib
import re
from collections.abc import Iterable

LIKE = 0.5  # likeness from which a name is suggested


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, by letters, by words, or as an abbreviation; None if none is."""
    likest = max(known, key=lambda other: likeness(name, other), default=None)
    return likest if likest is not None and likeness(name, likest) >= LIKE else None


def likeness(name: str, other: str) -> float:
    """How alike two names are: as strings, 0 to 1, and more for the same words or initials after the last dot."""
    letters = difflib.SequenceMatcher(None, name, other).ratio()
    one, two = (text.rpartition(".")[2].split("_") for text in (name, other))
    if one == two or [_initials(one)] == two or [_initials(two)] == one:
        return 1 + letters
    return letters + len({*one} & {*two}) / len({*one} | {*two})


def _initials(words: list[str]) -> str:
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


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
