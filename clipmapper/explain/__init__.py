"""Explains what a CLIPMapper says: its answers, and every word of its captions."""

from clipmapper.explain.answers import explain_answer, preprocessing
from clipmapper.explain.captions import explain_caption

__all__ = ["explain_answer", "explain_caption", "preprocessing"]
