"""A caption in the report: the maps of its words by a method, and the objects that the words name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL.Image import Image
from torch import Tensor

from clipmapper.data.shapes.scene import Scene
from clipmapper.explain.ground_truth import named_words, scene_region
from clipmapper.images import png
from xai.figures.geometry import Geometry, Size
from xai.report.data import Explanation, Sample, Step
from xai.results.captions import CaptionRelevance


def caption_sample(
    record: Mapping[str, Any],
    image: Image,
    geometry: Callable[[Size], Geometry],
    explanations: Mapping[str, Explanation],
) -> Sample:
    """Returns a caption of the report.

    Args:
        record: the sample's columns: image_id, caption, reference, and "right" where that is known.
        image: as it was read.
        geometry: from an image's size to where its pixels go in CLIP's preprocessing.
        explanations: by method.
    """
    return Sample(
        id=str(record["image_id"]),
        image=png(image),
        question=record["caption"],
        answer=record["reference"],
        prediction="",
        right=record.get("right"),
        answer_type="",
        explanations=explanations,
        window=geometry((image.height, image.width)).shares(),
    )


def caption_explanation(relevance: CaptionRelevance) -> Explanation:
    """Returns what the report shows of a single caption, 0 where relevance is undefined.

    No step reads the last token, which thus has no relevance.
    """
    defined = {name: scores.nan_to_num(0, 0, 0) for name, scores in relevance.steps.scores.items()}
    relevance = replace(relevance, steps=relevance.steps.with_scores(defined))
    whole, words = relevance.whole(), relevance.words[0]
    scores = [score for _, score in whole.by_word("text")[0]]
    scores += [0.0] * (len(words) - len(scores))
    maps, between = relevance.word_maps()[0], relevance.between_words()[0].tolist()
    steps = tuple(Step(_grid(patches), tuple(row)) for patches, row in zip(maps, between, strict=True))
    return Explanation(_grid(whole.map()[0]), tuple(zip(words, scores, strict=True)), None, steps)


def scene_explanation(words: Sequence[str], scene: Scene, grid: tuple[int, int]) -> Explanation:
    """Returns how much of each patch the objects cover that words name, by all words and by each.

    Args:
        words: of one caption.
        scene: what its image shows.
        grid: rows and columns of the patches.
    """
    named = {word.place: word.things for word in named_words([words], [scene])}
    nothing = (0.0,) * len(words)
    steps = tuple(Step(_grid(scene_region(scene, named.get(i, ()), grid)), nothing) for i in range(len(words)))
    everything = sorted({thing for things in named.values() for thing in things})
    spoken = tuple((word, float(i in named)) for i, word in enumerate(words))
    return Explanation(_grid(scene_region(scene, everything, grid)), spoken, None, steps)


def _grid(patches: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, patches.tolist()))
