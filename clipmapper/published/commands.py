"""Another name of `clipmapper.evaluation.papers`."""

from clipmapper.evaluation.papers import main, parse

__all__ = ["main", "parse"]
