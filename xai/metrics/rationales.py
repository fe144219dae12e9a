"""Reads human rationales in the ERASER format, and compares the most relevant words with them (TransAtt §4)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xai.files import parsed_json, read_text, repeated
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
    def rationale(self) -> Bool[Tensor, " words"]:
        """Marks the words in a span."""
        marked = torch.zeros(len(self.words), dtype=torch.bool)
        for start, end in self.spans:
            marked[start:end] = True
        return marked


def read_eraser(folder: Path, split: str) -> list[Review]:
    """Reads reviews in the format of ERASER; words are what blanks and ends of lines part, as spans count them.

    Args:
        folder: with `split`.jsonl, and the documents: a file each in `docs`, or all in `docs.jsonl`.
        split: such as "test".

    Raises:
        ValueError: an entry that is cut, without a field, or with reasons outside its document or in several ones, or a
            document that is empty or not UTF-8; names file and entry.
        FileNotFoundError: a document that is missing.
    """
    path = Path(folder) / f"{split}.jsonl"
    words = _words_of(Path(folder))
    reviews = [_review(path, line, entry, words) for line, entry in _entries(path)]
    if (twice := repeated([review.name for review in reviews])) is not None:
        raise ValueError(f"{path}: several entries have the annotation_id {twice!r}; take one out")
    return reviews


def word_relevance(
    relevance: Float[Tensor, "*methods B T"], word_of: Int[Tensor, "B T"], words: int
) -> tuple[Float[Tensor, "*methods B words"], Bool[Tensor, "B words"]]:
    """Gives each word the highest relevance of its pieces.

    Args:
        relevance: [..., B, T], of word pieces.
        word_of: [B, T], the word a piece belongs to, from 0; -1 for special tokens and padding.
        words: the number of words.

    Returns:
        Relevance [..., B, words], and which words [B, words] have a piece; those that were cut off have not, and get 0.

    Source:
        TransAtt §4.

    Example:
        >>> import torch
        >>> from xai.metrics.rationales import word_relevance
        >>> found, seen = word_relevance(torch.tensor([[9.0, 0.2, 0.5, 0.1]]), torch.tensor([[-1, 0, 0, 1]]), words=3)
        >>> found.tolist() == [[0.5, 0.10000000149011612, 0.0]], seen.tolist()
        (True, [[True, True, False]])
    """
    index = word_of.where(word_of >= 0, words)
    shape = (*relevance.shape[:-1], words + 1)
    highest = relevance.new_zeros(shape).scatter_reduce(
        -1, index.expand(relevance.shape), relevance, "amax", include_self=False
    )
    seen = torch.zeros(shape[-2:], dtype=torch.bool, device=word_of.device).scatter(1, index, True)
    return highest[..., :words], seen[:, :words]


def token_f1(
    relevance: Float[Tensor, "*methods B W"],
    rationale: Bool[Tensor, "B W"],
    valid: Bool[Tensor, "B W"],
    top: Sequence[int] = TOP,
) -> Float[Tensor, "*methods B k"]:
    """Compares the k most relevant words with the rationale.

    Args:
        relevance: [..., B, W]; ties count with their expectation.
        rationale: [B, W], the words that people marked; counts in full, as in ERASER.
        valid: [B, W], the words the model saw.
        top: each k.

    Returns:
        F1 [..., B, k in top], 0 to 1: the mean over documents is ERASER's macro F1. NaN where there is no rationale or
        relevance is not finite.

    Source:
        TransAtt §4.

    Example:
        >>> import torch
        >>> from xai.metrics.rationales import token_f1
        >>> rationale = torch.tensor([[True, False, False]])
        >>> token_f1(torch.tensor([[3.0, 2.0, 1.0]]), rationale, rationale | True, top=[1, 3]).tolist()
        [[1.0, 0.5]]
    """
    shape = (*relevance.shape[:-1], len(top), relevance.shape[-1])
    ranked, seen = relevance[..., None, :].expand(shape), valid[:, None]
    k = torch.tensor(top, device=relevance.device, dtype=torch.promote_types(relevance.dtype, torch.float))
    hits = expected_hits(ranked, (rationale & valid)[:, None].to(k), k, seen)
    chosen, gold = torch.minimum(k, seen.sum(dim=-1)), rationale.sum(dim=-1)[:, None]
    defined = (relevance.isfinite() | ~valid).all(dim=-1)[..., None] & (gold > 0)
    return (2 * hits / (chosen + gold)).where(defined, torch.nan)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields what the lines of a file of JSON say, with each line's name for messages."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # other ends of lines may stand in a text
        if line.strip():
            what = f"{path}: line {number}"
            yield what, parsed_json(line, what, "fetch the file anew")


def _review(path: Path, line: str, entry: Any, words_of: Callable[[str, str], tuple[list[str], str]]) -> Review:
    name = entry.get("annotation_id") if isinstance(entry, dict) else None
    what = f"{path}: ERASER entry {name!r}" if name else line
    evidence = _evidence(entry, what)
    sources = _documents(entry, evidence, what)
    if len(sources) > 1:
        raise ValueError(f"{what} has reasons in several documents: {', '.join(sorted(sources))}; leave it out")
    words, document = words_of(sources.pop(), what)
    if not any(words):
        raise ValueError(f"{what}: the document {document} has no word; fetch it anew or leave the entry out")
    spans = [(part["start_token"], part["end_token"]) for part in evidence]
    for start, end in spans:
        if not 0 <= start <= end <= len(words):
            raise ValueError(
                f"{what}: words {start} to {end} of the {len(words)} words of {document}; correct the span"
            )
    return Review(entry["annotation_id"], words, entry["classification"], spans)


def _evidence(entry: Any, what: str) -> list[dict[str, Any]]:
    """Returns the reasons of an entry whose fields are checked."""
    for key in ("annotation_id", "classification"):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise ValueError(f"{what}: has no text {key!r}; expected an entry of ERASER")
    groups = entry.get("evidences")
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ValueError(f"{what}: its 'evidences' are no list of lists; without reasons it is []")
    evidence = [part for group in groups for part in group]
    for part in evidence:
        tokens = [part.get(key) if isinstance(part, dict) else None for key in ("start_token", "end_token")]
        if not all(type(token) is int for token in tokens):
            raise ValueError(f"{what}: its evidence {str(part)[:80]} has no whole 'start_token' and 'end_token'")
    return evidence


def _documents(entry: dict[str, Any], evidence: Sequence[dict[str, Any]], what: str) -> set[str]:
    """Names the documents: by the evidence, else by the entry; an entry without either is named as its document."""
    listed = entry.get("docids") or []
    sources = (
        [part["docid"] for part in evidence if part.get("docid") is not None] or listed or [entry["annotation_id"]]
    )
    if not isinstance(listed, list) or not all(isinstance(source, str) for source in [*sources, *listed]):
        raise ValueError(
            f"{what}: its 'docids' or its evidence's 'docid' are no texts; expected names of files in docs"
        )
    return set(sources)


def _words_of(folder: Path) -> Callable[[str, str], tuple[list[str], str]]:
    """Returns the function from a document and the name of its entry to the document's words and its name for messages."""
    one, several = folder / "docs.jsonl", folder / "docs"
    if one.exists() and several.exists():
        raise ValueError(f"{folder}: has both docs.jsonl and docs, whose words count differently; take one away")
    return partial(_words_in_file, one, _texts(one)) if one.exists() else partial(_words_in_folder, several)


def _words_in_folder(folder: Path, name: str, what: str) -> tuple[list[str], str]:
    document = folder / name
    if not document.is_file():
        raise FileNotFoundError(f"{what}: no document {document}; fetch it, or name it in the entry's 'docids'")
    return [word for word in _parted(read_text(document)) if word], str(document)


def _words_in_file(path: Path, texts: dict[str, str], name: str, what: str) -> tuple[list[str], str]:
    """Gives the words as ERASER counts them in `docs.jsonl`: what is between two blanks, or an empty line, is one too."""
    if name not in texts:
        raise FileNotFoundError(f"{what}: no document {name!r} in {path}; add it, or name another in 'docids'")
    return _parted(texts[name]), f"{name!r} of {path}"


def _parted(text: str) -> list[str]:
    """Splits a document as ERASER does: each line at single blanks, so that a no-break space is part of a word."""
    return [word for line in text.split("\n") for word in line.strip().split(" ")]


def _texts(path: Path) -> dict[str, str]:
    """Returns the documents of `docs.jsonl` by name."""
    texts: dict[str, str] = {}
    for what, entry in _entries(path):
        name, text = (entry.get(key) if isinstance(entry, dict) else None for key in ("docid", "document"))
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"{what}: has no texts 'docid' and 'document'; expected a document of ERASER")
        if texts.setdefault(name, text) != text:
            raise ValueError(f"{what}: another text of the document {name!r} is there before; take one out")
    return texts
