"""The maps of a caption's words: where they fall, and how much of them is on the image."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipmapper.benchmark.measure import location, share_of
from clipmapper.benchmark.task import Maps, Scorer
from clipmapper.data.shapes.scene import Scene
from clipmapper.explain.ground_truth import NamedWord, scene_region
from xai.recording.recording import Recording
from xai.results.captions import CaptionRelevance

SHARE = "image_share"
MOST_WORDS = 1000  # more than a caption has: gives each word a number of its own


@dataclass(frozen=True, eq=False)
class WordMaps:
    """The words of a batch's captions.

    Attributes:
        captions: by method their relevance.
        rows: names of the table's rows; those that are no method have no maps of words.
        words: of each caption.
        ids: of the captions.
        scenes: of the captions' images.
        patches: [B, tokens], True at the patches of each image.
        grid: rows and columns of the patches.
    """

    captions: Mapping[str, CaptionRelevance]
    rows: Sequence[str]
    words: Sequence[Sequence[str]]
    ids: Sequence[int]
    scenes: Sequence[Scene]
    patches: Tensor
    grid: tuple[int, int]

    def on_objects(self, words: Sequence[NamedWord]) -> Maps:
        """Returns maps of the image for some words, perhaps none, scored by the objects that they name."""
        valid = self.patches[self._of(words).to(self.patches.device)]
        regions = self.regions([(word.caption, word.things) for word in words], valid)
        return self._maps(words, ("image",), valid, location(regions, valid))

    def on_image(self, words: Sequence[NamedWord]) -> Maps:
        """Returns maps of image and earlier words for some words, perhaps none, scored by the share of the image."""
        patches = self.patches[self._of(words).to(self.patches.device)]
        frames = [relevance.per_word for relevance in self.captions.values()][:1]
        text = [frame.content("text")[self._places(words)] for frame in frames]
        valid = torch.cat([patches, *text], dim=1)
        return self._maps(words, ("image", "text"), valid, share_of(slice(0, patches.shape[1]), valid, SHARE))

    def regions(self, things: Sequence[tuple[int, Collection[int]]], patches: Tensor) -> Tensor:
        """Returns the share of each token [N, tokens] that objects cover, from (caption, its objects)."""
        regions = torch.zeros(patches.shape)
        for i, (caption, some) in enumerate(things):
            regions[i, patches[i].cpu()] = scene_region(self.scenes[caption], list(some), self.grid).flatten()
        return regions

    def _maps(self, words: Sequence[NamedWord], modalities: Sequence[str], valid: Tensor, scorer: Scorer) -> Maps:
        places = self._places(words)
        absent = torch.full(valid.shape, torch.nan, device=valid.device)
        scores = []
        for row in self.rows:
            found = self.captions.get(row)
            parts = [found.per_word.scores[name][places].float() for name in modalities] if found is not None else []
            scores.append(torch.cat(parts, dim=1) if parts else absent)
        ids = [MOST_WORDS * self.ids[word.caption] + word.place for word in words]
        return Maps(torch.stack(scores), torch.tensor(ids, dtype=torch.long), [scorer], self._of(words))

    def _of(self, words: Sequence[NamedWord]) -> Tensor:
        return torch.tensor([word.caption for word in words], dtype=torch.long)

    def _places(self, words: Sequence[NamedWord]) -> list[int]:
        """Where words are among the words of all captions."""
        starts = np.cumsum([0, *map(len, self.words)])
        return [int(starts[word.caption]) + word.place for word in words]


def grid_of(recording: Recording) -> tuple[int, int]:
    """Returns rows and columns of the image's tokens; raises ValueError where they lie in none."""
    if "image" not in recording.grids:
        raise ValueError("the image's tokens lie in no grid, so that objects cannot be found on them")
    return recording.grids["image"]
