"""Relevance for what a model wrote: every token is a classification at its step, the whole their weighted sum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xai.figures.geometry import Geometry, Size
from xai.results.modality import Words
from xai.results.relevance import Relevance
from xai.results.words import merge_pieces, spoken

ROUNDING = 1e-12  # a smaller drop of a metric is none


@dataclass(frozen=True, eq=False)
class CaptionRelevance:
    """Relevance of the inputs for each token of one or more captions, or other texts that a model wrote.

    Attributes:
        steps: a row for every token, caption by caption. The text of a row is what was there when the token was written:
            the tokens before it. What the model was given to go on from is a modality of its own, "prompt".
        tokens: of each caption the pieces that were written.
        weights: of each caption how much each of its tokens counts for the whole, [its tokens], sum 1.
        places: of each caption where its tokens are in the text; None where they follow a start token.
        pictures: of each caption the pixels [3, height, width] of its images as the model saw them, by modality; None where
            nobody gave them.

    Raises:
        ValueError: captions without tokens, or tokens, weights, places and steps that are not equally many.

    Source:
        WRA eq. 20 and 21.

    Example:
        >>> import torch
        >>> from xai.results.captions import CaptionRelevance, average
        >>> from xai.results.relevance import ModalityRelevance, Relevance
        >>> def part(scores, special, grid=None):
        ...     mask = torch.ones_like(scores, dtype=torch.bool)
        ...     return ModalityRelevance(scores, mask, special.expand(mask.shape), grid)
        >>> image = part(torch.tensor([[0.8, 0.2], [0.4, 0.6]]), torch.tensor([False, False]), (1, 2))
        >>> text = part(torch.tensor([[0.0, 0.0], [0.0, 0.5]]), torch.tensor([True, False]))
        >>> steps = Relevance({"image": image, "text": text}, "wra", {}, "tokens")  # one for each of two words
        >>> relevance = CaptionRelevance(steps, (("red", "ball"),), (average(2),))
        >>> relevance.word_maps()[0].shape, relevance.whole().map().shape
        (torch.Size([2, 1, 2]), torch.Size([1, 1, 2]))
    """

    steps: Relevance
    tokens: Words
    weights: tuple[Tensor, ...]  # of each caption [its tokens], sum 1
    places: tuple[tuple[int, ...], ...] | None = None
    pictures: tuple[Mapping[str, Tensor], ...] | None = None

    def __post_init__(self) -> None:
        rows = len(next(iter(self.steps.scores.values())))
        counts = [len(pieces) for pieces in self.tokens]
        for what in (self.places, self.pictures):
            if what is not None and len(what) != len(counts):
                raise ValueError(f"places or pictures of {len(what)} captions for {len(counts)}; give them for each")
        if self.places is not None and counts != [len(places) for places in self.places]:
            raise ValueError(f"places of {[len(places) for places in self.places]} tokens for {counts}; give each one")
        if sum(counts) != rows or not all(counts) or counts != [len(weights) for weights in self.weights]:
            raise ValueError(
                f"captions of {counts} tokens with weights of {[len(w) for w in self.weights]} do not fit {rows} steps; "
                "give each caption at least one token, and each token a step and a weight"
            )

    @property
    def words(self) -> list[list[str]]:
        """Words of each caption, merged from their pieces."""
        return [[word for word, _ in merged] for merged in self._merged]

    @property
    def texts(self) -> list[str]:
        """Each caption's words as one text, without blanks in scripts that have none."""
        return [spoken(words) for words in self.words]

    def word_maps(self, modality: str = "image") -> list[Tensor]:
        """Returns for each caption the relevance of patches for its words, the mean over a word's tokens.

        Args:
            modality: one with a grid.

        Returns:
            For each caption [words, rows, columns].

        Raises:
            ValueError: a modality without a grid.
        """
        return self._by_caption(self.per_word.map(modality))

    def between_words(self, modality: str = "text") -> list[Tensor]:
        """Returns for each caption how much each word (row) goes back on each word before it.

        A word of several pieces has some relevance for itself: of its first pieces for its last.

        Args:
            modality: that of the caption's text.

        Returns:
            For each caption [words, words]; 0 for later words.
        """
        scores = self._by_caption(self.per_word.scores[modality])
        maps = []
        for caption, (merged, rows) in enumerate(zip(self._merged, scores, strict=True)):
            places = list(self.places[caption] if self.places else range(1, len(self.tokens[caption]) + 1))
            read = torch.cat(
                [rows, rows.new_zeros(len(rows), 1)], dim=1
            )  # there may be no place of the last: no step reads it
            written = read[:, [min(place, rows.shape[1]) for place in places]]
            maps.append(torch.stack([written[:, places].sum(dim=1) for _, places in merged], dim=1))
        return maps

    def shares(self) -> list[dict[str, Tensor]]:
        """Returns for each caption what its words rest on: how much of the positive relevance is on images, prompt and text.

        A word that rests on the text before it rather than on the image may be said of something that is not there.

        Returns:
            For each caption by "image" (all of them together), "prompt" and "text", as far as there are such tokens, [words],
            0 to 1, together 1; NaN for a word without positive relevance. Special tokens do not count.

        Example:
            >>> import torch
            >>> from xai.results.captions import CaptionRelevance, average
            >>> from xai.results.relevance import ModalityRelevance, Relevance
            >>> image, text = torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
            >>> parts = {n: ModalityRelevance(s, s == s, s != s) for n, s in {"image": image, "text": text}.items()}
            >>> words = CaptionRelevance(Relevance(parts, "mine", {}, None), (("▁a", "▁dog"),), (average(2),), ((0, 1),))
            >>> {name: share.tolist() for name, share in words.shares()[0].items()}
            {'image': [1.0, 0.5], 'text': [0.0, 0.5]}
        """
        counts = [len(merged) for merged in self._merged]
        parts = {kind: share.split(counts) for kind, share in self.per_word.shares_by_kind().items()}
        return [{name: split[caption] for name, split in parts.items()} for caption in range(len(counts))]

    @cached_property
    def per_word(self) -> Relevance:
        """Relevance with a row for every word, caption by caption: the mean of its tokens, with the text before its last one."""
        counts = [len(places) for _, places in self._placed()]
        last = [start + places[-1] for start, places in self._placed()]
        return combined(self.steps, torch.cat([average(count) for count in counts]), counts, last)

    def whole(self, weights: Sequence[Tensor] | None = None) -> Relevance:
        """Sums the relevance of the tokens up to that of the whole captions, Σ w_t R_t.

        Args:
            weights: for each caption [its tokens]; None for its own.

        Returns:
            A row for every caption. The last token is never read, so the text is without it.

        Source:
            WRA eq. 20.
        """
        weights = self.weights if weights is None else weights
        last = [stop - 1 for stop in accumulate(map(len, self.tokens))]
        return combined(self.steps, torch.cat(list(weights)), list(map(len, self.tokens)), last)

    def only(self, caption: int) -> "CaptionRelevance":
        """Selects one of the captions by its place."""
        start, stop = _slices(map(len, self.tokens))[caption]
        steps, one = self.steps.rows(range(start, stop)), slice(caption, caption + 1)
        places = None if self.places is None else self.places[one]
        pictures = None if self.pictures is None else self.pictures[one]
        return CaptionRelevance(steps, self.tokens[one], self.weights[one], places, pictures)

    def each_word(self, caption: int = 0) -> list[Relevance]:
        """Splits one caption into the relevance for each word, a batch of one with the word for target."""
        first = sum(map(len, self._merged[:caption]))
        words = enumerate(self.words[caption], start=first)
        return [replace(self.per_word.rows([row]), target=word) for row, word in words]

    def save_overlay(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
    ) -> None:
        """Draws the whole captions, as `Relevance.save_overlay` does; without images over those that the model saw."""
        images = self.pictures if images is None else images
        self.whole().save_overlay(path, images, geometry=geometry, titles=self.texts)

    def save_filmstrip(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
    ) -> None:
        """Draws a strip for each caption: its image, then one heat map for each word over the words before it.

        Without images it draws over those that the model saw.
        """
        from xai.figures.filmstrip import save_filmstrip  # here: drawing needs matplotlib, explaining does not

        save_filmstrip(self, Path(path), self.pictures if images is None else images, geometry)

    def save_page(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
        title: str = "Word by word",
    ) -> None:
        """Writes one HTML file that needs nothing else, in which one points at a word and sees its map.

        Args:
            path: of the file.
            images: as of `save_filmstrip`.
            geometry: from an image's size to where it went in preprocessing; None for one that was resized whole.
            title: of the page.

        Raises:
            ValueError: images and captions are not equally many.
        """
        from xai.report.words import write_words  # here: drawing needs matplotlib, explaining does not

        write_words(self, Path(path), self.pictures if images is None else images, geometry, title)

    @cached_property
    def _merged(self) -> list[list[tuple[str, list[int]]]]:
        return [merge_pieces(pieces) for pieces in self.tokens]

    def _placed(self) -> list[tuple[int, list[int]]]:
        """Returns for every word the first step of its caption, and the places of its tokens in the caption."""
        starts = [start for start, _ in _slices(map(len, self.tokens))]
        return [(start, places) for start, merged in zip(starts, self._merged, strict=True) for _, places in merged]

    def _by_caption(self, rows: Tensor) -> list[Tensor]:
        return list(rows.split([len(merged) for merged in self._merged]))


def combined(relevance: Relevance, weights: Tensor, counts: Sequence[int], like: Sequence[int]) -> Relevance:
    """Returns the weighted sums of groups of rows.

    A group's sum has nothing of the rows of other groups: one undefined row leaves the other sums defined.

    Args:
        relevance: R rows.
        weights: [R], of each row.
        counts: how many of the rows, one after the other, are each group's; they add up to R.
        like: for each group the row whose tokens the sum has.
    """
    device = weights.device
    group = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))

    def sums(scores: Tensor) -> Tensor:
        weighted = weights.to(scores)[:, None] * scores
        return scores.new_zeros(len(counts), scores.shape[1]).index_add(0, group.to(scores.device), weighted)

    return relevance.rows(like).with_scores({name: sums(scores) for name, scores in relevance.scores.items()})


def average(tokens: int) -> Tensor:
    """Returns equal weights [tokens] that sum to 1."""
    return torch.full((tokens,), 1 / tokens, dtype=torch.float64)


def drop_weights(drops: Tensor) -> Tensor:
    """Returns weights ∝ (m(C) − m(C without token t))⁺ with sum 1; equal ones where no token's absence costs anything.

    Args:
        drops: [tokens], m(C) − m(C without token t) of a metric m of the caption C.

    Returns:
        [tokens].

    Source:
        WRA eq. 21; the paper is silent on equal weights.

    Example:
        >>> import torch
        >>> from xai.results.captions import drop_weights
        >>> drop_weights(torch.tensor([0.75, -0.5, 0.25])).tolist()
        [0.75, 0.0, 0.25]
    """
    costs = drops.double().where(drops > ROUNDING, 0)
    return costs / costs.sum() if costs.any() else average(len(drops))


def _slices(counts: Any) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(counts, initial=0)))
