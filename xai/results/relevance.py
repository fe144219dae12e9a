"""What an explanation is: relevance by modality, each on its own tokens."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xai.figures.geometry import Geometry, Size
from xai.lrp.conservation import Conservation, LayerFlow
from xai.results.words import merge_pieces

Words = tuple[tuple[str, ...], ...]  # of each sample, of its tokens


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much each input token matters for the target: for each modality scores [B, tokens], 0 at padding."""

    scores: dict[str, Tensor]
    mask: dict[str, Tensor]  # [B, tokens], False at padding
    special: dict[str, Tensor]  # [B, tokens], True at tokens that are no content
    grids: dict[str, tuple[int, int]]  # rows and columns of the tokens of image modalities that are not special
    method: str
    options: dict[str, Any]
    target: str | None  # None: the method ignores the target
    words: dict[str, Words] = field(default_factory=dict)
    boxes: dict[str, Tensor] = field(default_factory=dict)  # [B, tokens, 4]: x1, y1, x2, y2 in pixels of the image
    conservation: Conservation | None = None  # of relevance from layer to layer, where it was checked

    @property
    def signed(self) -> bool:
        """Whether some tokens speak against the target."""
        return any(bool((scores < 0).any()) for scores in self.scores.values())

    def content(self, modality: str) -> Tensor:
        """[B, tokens]: True at tokens that are neither padding nor special."""
        return self.mask[self._known(modality)] & ~self.special[modality]

    def shares(self) -> dict[str, Tensor]:
        """How much of the positive relevance each modality with content holds, [B], 0 to 1; NaN where there is none."""
        from xai.metrics.localisation import modality_share  # here: the core does without xai.metrics

        content = {name: self.content(name) for name in self.scores}
        content = {name: kept for name, kept in content.items() if kept.any()}
        return modality_share({name: self.scores[name] for name in content}, content)

    def map(self, modality: str = "image") -> Tensor:
        """Scores of an image's patches [B, rows, columns]; raises ValueError for a modality that has no grid."""
        if modality not in self.grids:
            raise ValueError(f"modality {modality!r} has no grid; those with one: {', '.join(self.grids) or 'none'}")
        return self.scores[modality][~self.special[modality]].unflatten(0, (-1, *self.grids[modality]))

    def by_word(self, modality: str = "text") -> list[list[tuple[str, float]]]:
        """Of each sample its words with the sum of their pieces' scores, special tokens left out.

        A modality without strings has the positions of its tokens for words, from 1.
        """
        found = []
        content, scores = self.content(modality).tolist(), self.scores[modality].tolist()
        for sample, (kept, values) in enumerate(zip(content, scores, strict=True)):
            numbers = tuple(str(i) for i in range(1, len(kept) + 1))
            tokens = self.words[modality][sample] if modality in self.words else numbers
            pieces = [token if keep else None for token, keep in zip(tokens, kept, strict=False)]
            found.append([(word, sum(values[i] for i in places)) for word, places in merge_pieces(pieces)])
        return found

    def with_words(self, words: Sequence[Sequence[str]], modality: str = "text") -> "Relevance":
        """With the strings of each sample's tokens, special ones included; those of padding may be missing.

        Raises ValueError where samples or tokens do not number as the scores do.
        """
        mask = self.mask[self._known(modality)]
        if len(words) != len(mask):
            raise ValueError(f"strings of {len(words)} samples for {len(mask)}; give a list of tokens for each sample")
        for sample, (tokens, count) in enumerate(zip(words, _last_real(mask), strict=True)):
            if isinstance(tokens, str) or not count <= len(tokens) <= mask.shape[1]:
                raise ValueError(
                    f"sample {sample} has {count} tokens of {modality!r}, but strings for {len(tokens)}; give one string "
                    "a token, special tokens and pieces of words included"
                )
        return replace(self, words={**self.words, modality: tuple(tuple(tokens) for tokens in words)})

    def with_boxes(self, boxes: Tensor | Sequence[Tensor], modality: str = "regions") -> "Relevance":
        """With the regions' boxes [B, tokens, 4] or for each sample [n, 4]: x1, y1, x2, y2 in pixels of its image.

        Raises ValueError where they do not number as the scores do.
        """
        mask = self.mask[self._known(modality)]
        if len(boxes) != len(mask):
            raise ValueError(f"boxes of {len(boxes)} samples for {len(mask)}; give them for each sample")
        padded = torch.zeros(*mask.shape, 4)
        for sample, (found, count) in enumerate(zip(boxes, _last_real(mask), strict=True)):
            if found.shape[1:] != (4,) or not count <= len(found) <= mask.shape[1]:
                raise ValueError(f"sample {sample} has {count} {modality}, but boxes of shape {list(found.shape)}")
            padded[sample, : len(found)] = found
        return replace(self, boxes={**self.boxes, modality: padded})

    def save_overlay(
        self,
        path: str | Path,
        images: Sequence[Any] | None = None,
        words: Sequence[Sequence[str]] | None = None,
        geometry: Callable[[Size], Geometry] | None = None,
        titles: Sequence[str] | None = None,
    ) -> None:
        """Draws every sample: its relevance over its image or regions, its words in the colour of theirs.

        All arguments but the path may be missing; then patches are drawn alone, and tokens as their positions. `geometry`
        says how an image of a size was preprocessed; by default it was resized whole. For `images` see `render.pixels`.
        """
        from xai.figures.render import overlay, save  # here: drawing needs matplotlib, explaining does not

        shown = self if words is None else self.with_words(words)
        save(overlay(shown, images, geometry, titles), Path(path))

    def save(self, path: str | Path) -> None:
        """Writes `path`.safetensors and `path`.json, each whole or not at all; `load` gives the same back.

        Raises TypeError for options that are no plain values; tuples among them come back as lists.
        """
        from xai.results.artefact import save

        tensors = {f"{name}/{key}": t for name in TENSORS for key, t in getattr(self, name).items()}
        facts = {name: getattr(self, name) for name in ("method", "options", "target", "grids", "words")}
        kept = self.conservation and asdict(self.conservation)
        save(Path(path), tensors, {**facts, "conservation": kept, "modalities": list(self.scores)})

    @classmethod
    def load(cls, path: str | Path) -> "Relevance":
        """What `save` wrote; raises ValueError for files that are damaged, of two saves, or something else."""
        from xai.results.artefact import load

        tensors, facts = load(Path(path))
        modalities = facts.pop("modalities")
        facts["grids"] = {key: tuple(grid) for key, grid in facts["grids"].items()}
        facts["words"] = {key: tuple(map(tuple, words)) for key, words in facts["words"].items()}
        if facts["conservation"] is not None:
            layers = tuple(LayerFlow(**layer) for layer in facts["conservation"]["layers"])
            facts["conservation"] = Conservation(facts["conservation"]["start"], layers)
        for name in TENSORS:  # safetensors forgets their order
            facts[name] = {key: tensors[f"{name}/{key}"] for key in modalities if f"{name}/{key}" in tensors}
        return cls(**facts)

    def _known(self, modality: str) -> str:
        if modality not in self.scores:
            raise ValueError(f"no modality {modality!r}; there are: {', '.join(self.scores)}")
        return modality


TENSORS = ("scores", "mask", "special", "boxes")


def _last_real(mask: Tensor) -> list[int]:
    """How far the real tokens of each sample reach."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (positions * mask).amax(dim=1).tolist()
