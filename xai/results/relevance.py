"""Relevance by modality, each on its own tokens: the result of every explainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xai.figures.geometry import Geometry, Size
from xai.lrp.conservation import Conservation, LayerFlow
from xai.results.modality import TENSORS, ModalityRelevance
from xai.results.words import merge_pieces

Pairs = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of each input token for the target.

    Attributes:
        modalities: by name, such as "image" and "text".
        method: the explainer's name.
        options: of the explainer.
        target: what is explained; None for a method that ignores it.
        conservation: of relevance from layer to layer, where it was checked.
        pairs: by the names of two modalities how much two of their tokens matter together, [B, tokens, tokens]; None of a
            method that says nothing of pairs.

    Example:
        >>> import torch
        >>> from xai.results.relevance import ModalityRelevance, Relevance
        >>> tokens = torch.ones(1, 3, dtype=torch.bool)
        >>> text = ModalityRelevance(torch.tensor([[0.1, 0.6, 0.3]]), tokens, ~tokens)
        >>> relevance = Relevance({"text": text}, "mine", {}, None).with_words([["a ", "red ", "ball "]])
        >>> [word for word, score in relevance.by_word()[0] if score > 0.5]
        ['red']
    """

    modalities: dict[str, ModalityRelevance]
    method: str
    options: dict[str, Any]
    target: str | None
    conservation: Conservation | None = None
    pairs: Pairs | None = None

    def __getitem__(self, modality: str) -> ModalityRelevance:
        """Returns one modality; raises ValueError, naming those there are."""
        if modality not in self.modalities:
            raise ValueError(f"no modality {modality!r}; there are: {', '.join(self.modalities)}")
        return self.modalities[modality]

    @property
    def scores(self) -> dict[str, Tensor]:
        """Scores [B, tokens] by modality."""
        return {name: part.scores for name, part in self.modalities.items()}

    @property
    def signed(self) -> bool:
        """Whether some tokens speak against the target."""
        return any(bool((part.scores < 0).any()) for part in self.modalities.values())

    def content(self, modality: str) -> Tensor:
        """Returns the mask [B, tokens] of a modality's tokens that are neither padding nor special."""
        return self[modality].content

    def shares(self) -> dict[str, Tensor]:
        """Returns how much of the positive relevance each modality with content holds, [B], 0 to 1; NaN where there is none."""
        from xai.metrics.localisation import modality_share  # here: the core does without xai.metrics

        content = {name: part.content for name, part in self.modalities.items() if part.content.any()}
        return modality_share({name: self[name].scores for name in content}, content)

    def shares_by_kind(self) -> dict[str, Tensor]:
        """Returns the shares [B] of modalities, those of several images together as "image"."""
        by_kind: dict[str, Tensor] = {}
        for name, share in self.shares().items():
            kind = "image" if name.startswith("image") else name
            by_kind[kind] = by_kind[kind] + share if kind in by_kind else share
        return by_kind

    def map(self, modality: str = "image") -> Tensor:
        """Returns the scores of an image's patches.

        Args:
            modality: one with a grid.

        Returns:
            [B, rows, columns], without special tokens such as the class token.

        Raises:
            ValueError: a modality without a grid; names those with one.

        Example:
            >>> import torch
            >>> from xai.results.relevance import ModalityRelevance, Relevance
            >>> scores, special = torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([[True, False, False]])
            >>> image = ModalityRelevance(scores, special | True, special, grid=(2, 1))
            >>> Relevance({"image": image}, "mine", {}, None).map().shape
            torch.Size([1, 2, 1])
        """
        part = self.modalities.get(modality)
        if part is None or part.grid is None:
            grids = [name for name, other in self.modalities.items() if other.grid is not None]
            raise ValueError(f"modality {modality!r} has no grid; those with one: {', '.join(grids) or 'none'}")
        return part.scores[~part.special].unflatten(0, (-1, *part.grid))

    def by_word(self, modality: str = "text") -> list[list[tuple[str, float]]]:
        """Returns for each sample its words with the sum of their pieces' scores, special tokens left out.

        Args:
            modality: of the words. One without strings has the positions of its tokens for words, from 1.

        Raises:
            ValueError: there is no such modality; names those there are.
        """
        part, samples = self[modality], []
        content, scores = part.content.tolist(), part.scores.tolist()
        for sample, (keep, values) in enumerate(zip(content, scores, strict=True)):
            numbers = tuple(str(i) for i in range(1, len(keep) + 1))
            tokens = numbers if part.words is None else part.words[sample]
            pieces = [token if is_content else None for token, is_content in zip(tokens, keep, strict=False)]
            samples.append([(word, sum(values[i] for i in places)) for word, places in merge_pieces(pieces)])
        return samples

    def between(self, first: str = "text", second: str = "image") -> Tensor:
        """Returns how much each token of a modality and each of another matter together.

        Args:
            first: modality of the rows.
            second: modality of the columns.

        Returns:
            [B, tokens, tokens], 0 at padding; negative where a pair speaks against the target.

        Raises:
            ValueError: a method that says nothing of pairs, or a modality that there is not.

        Example:
            >>> import torch
            >>> from xai.results.modality import ModalityRelevance
            >>> from xai.results.relevance import Relevance
            >>> word, patches = (ModalityRelevance(s, s == s, s != s) for s in (torch.ones(1, 1), torch.ones(1, 2)))
            >>> found = {("text", "image"): torch.tensor([[[0.9, 0.1]]])}
            >>> Relevance({"image": patches, "text": word}, "mine", {}, None, pairs=found).between("text", "image").tolist()
            [[[0.8999999761581421, 0.10000000149011612]]]
        """
        if self.pairs is None:
            raise ValueError(f"{self.method} says nothing of pairs; methods that do: METHODS[name].pairs is not None")
        if (first, second) not in self.pairs:
            raise ValueError(f"no pairs of {first!r} and {second!r}; there are: {', '.join(map(str, self.pairs))}")
        return self.pairs[first, second]

    def with_scores(self, scores: Mapping[str, Tensor]) -> "Relevance":
        """Returns other scores [B, tokens] on the same tokens, by modality; without pairs, which are not of these."""
        changed = self._with({name: replace(self[name], scores=values) for name, values in scores.items()})
        return replace(changed, pairs=None)

    def with_words(self, words: Sequence[Sequence[str]], modality: str = "text") -> "Relevance":
        """Returns the relevance with the strings of each sample's tokens.

        Args:
            words: for each sample a string a token, special tokens included; those of padding may be missing.
            modality: of the tokens.

        Raises:
            ValueError: samples or tokens do not number as the scores do.
        """
        return self._with({modality: self[modality].with_words(words, modality)})

    def with_boxes(self, boxes: Tensor | Sequence[Tensor], modality: str = "regions") -> "Relevance":
        """Returns the relevance with the regions' boxes.

        Args:
            boxes: [B, tokens, 4], or for each sample [n, 4]: x1, y1, x2, y2 in pixels of its image.
            modality: of the regions.

        Raises:
            ValueError: they do not number as the scores do.
        """
        return self._with({modality: self[modality].with_boxes(boxes, modality)})

    def rows(self, rows: Sequence[int]) -> "Relevance":
        """Returns some samples, each perhaps several times."""
        index = list(rows)
        pairs = self.pairs and {names: values[index] for names, values in self.pairs.items()}
        return replace(self._with({name: part.rows(index) for name, part in self.modalities.items()}), pairs=pairs)

    def save_overlay(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        words: Sequence[Sequence[str]] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
        titles: Sequence[str] | None = None,
    ) -> None:
        """Draws every sample: its relevance over its image or regions, its words in the colour of theirs.

        Args:
            path: the picture's file; its suffix says the format.
            images: one for each sample, before normalisation: PIL images, arrays [h, w, 3] or tensors [3, h, w]; None draws
                patches alone.
            words: for each sample a string a token; None draws those of `with_words`, or the tokens' positions.
            geometry: from an image's size to where it went in preprocessing; None for an image that was resized whole.
            titles: one for each sample.

        Raises:
            ValueError: images, words or titles that do not number as the samples.
        """
        from xai.figures.render import overlay, save  # here: drawing needs matplotlib, explaining does not

        shown = self if words is None else self.with_words(words)
        save(overlay(shown, images, geometry, titles), Path(path))

    def save_pairs(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
        modalities: tuple[str, str] = ("text", "image"),
    ) -> None:
        """Draws every sample's words and patches: the strongest pairs as lines between them, and a map of each word.

        Args:
            path: of the PNG.
            images: as of `save_overlay`.
            geometry: as of `save_overlay`.
            modalities: of the words and of the patches.

        Raises:
            ValueError: as `between`, a modality of patches without a grid, or images that do not number as the samples.
        """
        from xai.figures.pairs import save_pairs  # here: drawing needs matplotlib, explaining does not

        save_pairs(self, Path(path), images, geometry, *modalities)

    def save(self, path: str | Path) -> None:
        """Writes `path`.safetensors and `path`.json, each whole or not at all; `load` gives the same back.

        Args:
            path: without a suffix, or with one of the two.

        Raises:
            TypeError: options that are no plain values. Tuples among them come back as lists.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from xai.results.relevance import ModalityRelevance, Relevance
            >>> mask = torch.ones(1, 2, dtype=torch.bool)
            >>> text = ModalityRelevance(torch.tensor([[0.75, 0.25]]), mask, ~mask)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Relevance({"text": text}, "mine", {}, "given 3").save(f"{folder}/found")
            ...     again = Relevance.load(f"{folder}/found")
            >>> again.scores["text"].tolist(), again.target
            ([[0.75, 0.25]], 'given 3')
        """
        from xai.results.artefact import save

        parts = self.modalities.items()
        tensors = {f"{name}/{key}": t for key, p in parts for name in TENSORS if (t := getattr(p, name)) is not None}
        tensors |= {f"pair {i}": values for i, values in enumerate((self.pairs or {}).values())}
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("method", "options", "target")}
        facts["pairs"] = None if self.pairs is None else [list(names) for names in self.pairs]
        facts["grids"] = {key: part.grid for key, part in parts if part.grid is not None}
        facts["words"] = {key: part.words for key, part in parts if part.words is not None}
        flow = self.conservation and asdict(self.conservation)
        save(Path(path), tensors, {**facts, "conservation": flow, "modalities": list(self.modalities)})

    @classmethod
    def load(cls, path: str | Path) -> "Relevance":
        """Reads what `save` wrote.

        Args:
            path: as of `save`.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: files that are damaged, of two saves, or something else.
        """
        from xai.results.artefact import files_of, load

        tensors, facts = load(Path(path))
        try:
            return cls._of(tensors, facts)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{files_of(Path(path))[1]}: not as it was saved ({error!r}); save the relevance anew"
            ) from error

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> "Relevance":
        """From what was saved; raises what Python does for facts that lack something or do not fit the tensors."""
        facts = {"pairs": None, **facts}  # files from before there were pairs
        for name, kind in FACTS.items():
            if not isinstance(facts[name], kind):
                raise ValueError(f"{name} is {str(facts[name])[:80]}")
        names = None if facts["pairs"] is None else [(first, second) for first, second in facts["pairs"]]
        pairs = None if names is None else {pair: tensors.pop(f"pair {i}") for i, pair in enumerate(names)}
        flow, there = facts["conservation"], {name.partition("/")[2] for name in tensors}
        if sorted(facts["modalities"]) != sorted(there) or not facts["grids"].keys() | facts["words"].keys() <= there:
            raise ValueError(f"modalities are {facts['modalities']}")
        if flow is not None:
            flow = Conservation(float(flow["start"]), tuple(LayerFlow(**layer) for layer in flow["layers"]))
        parts = {
            key: ModalityRelevance.of(key, tensors, facts) for key in facts["modalities"]
        }  # safetensors forgets their order
        for (first, second), values in (pairs or {}).items():
            if values.shape != (*parts[first].mask.shape, parts[second].mask.shape[1]):
                raise ValueError(f"pairs of {first} and {second} are of shape {list(values.shape)}")
        return cls(parts, facts["method"], facts["options"], facts["target"], flow, pairs)

    def _with(self, parts: dict[str, ModalityRelevance]) -> "Relevance":
        return replace(self, modalities={**self.modalities, **parts})


FACTS: dict[str, Any] = {"method": str, "options": dict, "target": str | None, "conservation": dict | None}
FACTS |= {"grids": dict, "words": dict, "modalities": list, "pairs": list | None}
