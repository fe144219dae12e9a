"""Relevance of one modality's tokens, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

Words = tuple[tuple[str, ...], ...]  # of each sample, of its tokens
TENSORS = ("scores", "mask", "special", "boxes")


@dataclass(frozen=True, eq=False)
class ModalityRelevance:
    """Relevance of one modality's tokens.

    Attributes:
        scores: [B, tokens], 0 at padding.
        mask: [B, tokens], False at padding.
        special: [B, tokens], True at tokens that are no content.
        grid: rows and columns of an image's tokens that are not special; None for what is no image.
        words: the strings of each sample's tokens, None where nobody gave them.
        boxes: [B, tokens, 4], x1, y1, x2, y2 of regions in pixels of the image; None where nobody gave them.
    """

    scores: Tensor
    mask: Tensor
    special: Tensor
    grid: tuple[int, int] | None = None
    words: Words | None = None
    boxes: Tensor | None = None

    @property
    def content(self) -> Tensor:
        """Mask [B, tokens] of the tokens that are neither padding nor special."""
        return self.mask & ~self.special

    @property
    def lengths(self) -> list[int]:
        """How far the tokens of each sample reach."""
        positions = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        return (positions * self.mask).amax(dim=1).tolist()

    def rows(self, index: list[int]) -> "ModalityRelevance":
        """Returns some samples, each perhaps several times."""
        tensors: dict[str, Any] = {name: t[index] for name in TENSORS if (t := getattr(self, name)) is not None}
        words = None if self.words is None else tuple(self.words[i] for i in index)
        return replace(self, **tensors, words=words)

    def with_words(self, words: Sequence[Sequence[str]], modality: str) -> "ModalityRelevance":
        """Returns it with the strings of each sample's tokens, as `Relevance.with_words`."""
        if len(words) != len(self.mask):
            raise ValueError(
                f"strings of {len(words)} samples for {len(self.mask)}; give a list of tokens for each sample"
            )
        for sample, (tokens, count) in enumerate(zip(words, self.lengths, strict=True)):
            if isinstance(tokens, str) or not count <= len(tokens) <= self.mask.shape[1]:
                raise ValueError(
                    f"sample {sample} has {count} tokens of {modality!r}, but strings for {len(tokens)}; give one string "
                    "a token, special tokens and pieces of words included"
                )
        return replace(self, words=tuple(tuple(tokens) for tokens in words))

    def with_boxes(self, boxes: Tensor | Sequence[Tensor], modality: str) -> "ModalityRelevance":
        """Returns it with the regions' boxes, as `Relevance.with_boxes`."""
        if len(boxes) != len(self.mask):
            raise ValueError(f"boxes of {len(boxes)} samples for {len(self.mask)}; give them for each sample")
        padded = torch.zeros(*self.mask.shape, 4)
        for sample, (corners, count) in enumerate(zip(boxes, self.lengths, strict=True)):
            if corners.shape[1:] != (4,) or not count <= len(corners) <= self.mask.shape[1]:
                raise ValueError(f"sample {sample} has {count} {modality}, but boxes of shape {list(corners.shape)}")
            padded[sample, : len(corners)] = corners
        return replace(self, boxes=padded)

    @classmethod
    def of(cls, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "ModalityRelevance":
        """From what `Relevance.save` wrote; raises what Python does for facts that lack something or do not fit the tensors."""
        grid, words = facts["grids"].get(name), facts["words"].get(name)
        known: dict[str, Any] = {what: tensors[f"{what}/{name}"] for what in TENSORS if f"{what}/{name}" in tensors}
        part = cls(**known, grid=None if grid is None else tuple(grid))
        if part.grid is not None and ((~part.special).sum(dim=1) != prod(part.grid)).any():
            raise ValueError(f"the grid of {name} is {grid}")
        if words is not None and not all(isinstance(word, str) for some in words for word in some):
            raise ValueError(f"the words of {name} are no strings")
        return part if words is None else part.with_words(words, name)
