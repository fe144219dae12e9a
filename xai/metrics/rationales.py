"""Human rationales in the ERASER format, and the token F1 of the most relevant words against them (TransAtt §4)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xai.metrics.ranking import expected_hits

TOP = tuple(range(10, 81, 10))


@dataclass(frozen=True)
class Review:
    """A document, its class, and the spans [start, end) of its words that people marked as reasons for the class."""

    name: str
    words: list[str]
    label: str
    spans: list[tuple[int, int]]

    @property
    def rationale(self) -> Tensor:
        """[words], True in a span."""
        marked = torch.zeros(len(self.words), dtype=torch.bool)
        for start, end in self.spans:
            marked[start:end] = True
        return marked


def read_eraser(folder: Path, split: str) -> list[Review]:
    """`folder`/`split`.jsonl with its `docs`; words are what whitespace separates.

    Raises ValueError naming the entry that has reasons outside its document or in several documents.
    """
    lines = (Path(folder) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_review(Path(folder) / "docs", json.loads(line)) for line in lines if line.strip()]


def word_relevance(relevance: Tensor, word_of: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """Relevance of word pieces [..., B, T] to that of words [..., B, words], the highest of its pieces each.

    `word_of` [B, T] is the word a piece belongs to, -1 for special tokens and padding. Also returns which words
    [B, words] have a piece; those that were cut off have not, and get 0.
    """
    index = word_of.where(word_of >= 0, words)
    shape = (*relevance.shape[:-1], words + 1)
    highest = relevance.new_zeros(shape).scatter_reduce(
        -1, index.expand(relevance.shape), relevance, "amax", include_self=False
    )
    seen = torch.zeros(shape[-2:], dtype=torch.bool, device=word_of.device).scatter(1, index, True)
    return highest[..., :words], seen[:, :words]


def token_f1(relevance: Tensor, rationale: Tensor, valid: Tensor, top: Sequence[int] = TOP) -> Tensor:
    """F1 of the k most relevant words against the rationale, [..., B, W] to [..., B, k in top]; ties by expectation.

    `valid` [B, W] are the words the model saw; `rationale` [B, W] counts in full, as in ERASER. The mean over documents
    is ERASER's macro F1. NaN where there is no rationale or relevance is not finite.
    """
    shape = (*relevance.shape[:-1], len(top), relevance.shape[-1])
    ranked, seen = relevance[..., None, :].expand(shape), valid[:, None]
    k = torch.tensor(top, device=relevance.device, dtype=torch.promote_types(relevance.dtype, torch.float))
    hits = expected_hits(ranked, (rationale & valid)[:, None].to(k), k, seen)
    chosen, gold = torch.minimum(k, seen.sum(dim=-1)), rationale.sum(dim=-1)[:, None]
    defined = (relevance.isfinite() | ~valid).all(dim=-1)[..., None] & (gold > 0)
    return (2 * hits / (chosen + gold)).where(defined, torch.nan)


def _review(documents: Path, entry: dict) -> Review:
    name = entry["annotation_id"]
    evidence = [part for group in entry["evidences"] for part in group]
    sources = {part["docid"] for part in evidence} or {name}
    if len(sources) > 1:
        raise ValueError(f"ERASER entry {name!r} has reasons in several documents: {', '.join(sorted(sources))}")
    words = (documents / sources.pop()).read_text(encoding="utf-8").split()
    spans = [(part["start_token"], part["end_token"]) for part in evidence]
    for start, end in spans:
        if not 0 <= start <= end <= len(words):
            raise ValueError(f"ERASER entry {name!r}: words {start} to {end} of a document of {len(words)} words")
    return Review(name, words, entry["classification"], spans)
