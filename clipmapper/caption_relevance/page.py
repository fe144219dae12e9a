"""A comparison of explainers of captions as the plain data of an HTML report."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from clipmapper.caption_relevance.measure import AVERAGE, RANDOM, Captioned, Whole
from clipmapper.caption_relevance.perturbation import FIGURES
from clipmapper.caption_relevance.summary import PLACES, label
from clipmapper.caption_relevance.truth import named_words, region
from clipmapper.comparison.curves import ORDER
from clipmapper.comparison.page import BETTER, DECIDING, window
from clipmapper.data.images import load_image
from clipmapper.data.shapes.scene import Scene
from clipmapper.metrics.caption_truth import KINDS, claims
from clipmapper.models.clip import FrozenCLIP
from clipmapper.truth.scores import BASELINES
from xai.metrics.protocols import DIRECTIONS
from xai.report.data import Chart, Column, Curve, Explanation, Figure, Report, Row, Rows, Sample, Step, Table
from xai.results.captions import CaptionRelevance

GALLERY = 20  # captions; each has a map for every word and method
HELP = {
    "RefCLIPScore": "of the caption that is written when patches are removed",
    "CIDEr": "of the caption that is written when patches are removed",
    "log_probability": "of the old caption when patches are removed, less that on the whole image",
}
PLACED = {
    "mass": "share of the positive relevance that lies on the objects that {} name",
    "rank": "share of the most relevant patches, as many as the objects cover, that lie on the objects that {} name",
}
NOTES = {RANDOM: "mean over random scores: the floor", "chance": "equal scores"}


def report(
    result: Mapping[str, Any], wholes: Sequence[Whole], samples: Sequence[Sample], facts: Mapping[str, str]
) -> Report:
    """`result` is what metrics.json holds under "explainers"."""
    floors = BASELINES if "words" in result else (RANDOM,)
    errors = result["errors"]
    rows = [Row(label(whole), _figures(result, *whole), note=errors.get(whole[0], "")) for whole in wholes]
    rows += [Row(name, _figures(result, name, None), note=NOTES[name], kind="floor") for name in floors]
    return Report(
        title="Explainers of captions compared",
        facts=facts,
        columns=tuple(_columns("words" in result)),
        tables=(Table("all", result["images"], tuple(rows)),),
        charts=tuple(_charts(result["perturbation"], [*wholes, (RANDOM, None)])),
        gallery=tuple(samples),
        kind="captions",
    )


def explanations(
    found: Mapping[str, CaptionRelevance], caption: int, scene: Scene | None, grid: tuple[int, int]
) -> dict[str, Explanation]:
    """Of one caption by method; where its scene is known also what its words name, as if it were a method."""
    by_method = {method: _explanation(relevance.only(caption)) for method, relevance in found.items()}
    if scene is not None:
        by_method[DECIDING] = _named(next(iter(found.values())).words[caption], scene, grid)
    return by_method


def sample(
    captioned: Captioned, place: int, text: str, by_method: Mapping[str, Explanation], clip: FrozenCLIP
) -> Sample:
    """The image of a place with its caption `text`."""
    image, png = load_image(captioned.sources[place]), io.BytesIO()
    image.save(png, "PNG")
    said = None if captioned.scenes is None else claims(text, captioned.scenes[place])
    return Sample(
        id=str(captioned.ids[place]),
        image=png.getvalue(),
        question=text,
        answer=captioned.references[place][0],
        prediction="",
        right=None if captioned.scenes is None else said is not None and all(right for _, right in said),
        answer_type="",
        explanations=by_method,
        window=window(clip, (image.height, image.width)),
    )


def from_plain(values: Mapping[str, Any]) -> Explanation:
    """What `dataclasses.asdict` made of it, and JSON of that."""
    steps = tuple(Step(_rows(step["patches"]), tuple(step["scores"])) for step in values["steps"])
    return Explanation(_rows(values["patches"]), tuple((word, score) for word, score in values["words"]), None, steps)


def _explanation(relevance: CaptionRelevance) -> Explanation:
    """Of a single caption. No step reads its last token, on which there is thus no relevance."""
    whole, words = relevance.whole(), relevance.words[0]
    scores = [score for _, score in whole.by_word("text")[0]]
    scores += [0.0] * (len(words) - len(scores))
    maps, between = relevance.word_maps()[0].tolist(), relevance.between_words()[0].tolist()
    steps = tuple(Step(_rows(patches), tuple(row)) for patches, row in zip(maps, between, strict=True))
    return Explanation(_rows(whole.map()[0].tolist()), tuple(zip(words, scores, strict=True)), None, steps)


def _named(words: Sequence[str], scene: Scene, grid: tuple[int, int]) -> Explanation:
    """How much of each patch the objects cover that are named, by all words and by each."""
    named = {word.place: word.things for word in named_words([words], [scene])[0]}
    silent = (0.0,) * len(words)
    steps = tuple(Step(_rows(region(scene, named.get(i, ()), grid).tolist()), silent) for i, _ in enumerate(words))
    everything = sorted({thing for things in named.values() for thing in things})
    spoken = tuple((word, float(i in named)) for i, word in enumerate(words))
    return Explanation(_rows(region(scene, everything, grid).tolist()), spoken, None, steps)


def _rows(patches: Sequence[Sequence[float]]) -> Rows:
    return tuple(map(tuple, patches))


def _figures(result: Mapping[str, Any], method: str, weights: str | None) -> dict[str, Figure]:
    """Those of words do not depend on how the words are weighed, and stand beside equal weights only."""
    key = method if weights is None else f"{method}/{weights}"
    found = {
        f"{figure}/{name}": result["perturbation"][figure][name].get(key)
        for figure in FIGURES
        for name in (*DIRECTIONS, "srg")
    }
    if "words" in result:
        found |= {f"whole/{place}": result["wholes"][place][key] for place in PLACES}
        if weights in (AVERAGE, None):
            found |= {f"{kind}/{place}": result["words"][kind][place][method] for kind in KINDS for place in PLACES}
    return {name: Figure(v["mean"], v["low"], v["high"]) for name, v in found.items() if v is not None}


def _columns(known: bool) -> list[Column]:
    """Gains first, then the areas they are made of, then where maps fall, if the scenes are `known`."""
    found = [
        Column(
            f"{name}/srg",
            name.replace("_", "-"),
            "SRG",
            "higher",
            f"negative minus positive area, {HELP[name]}",
            name == FIGURES[0],
        )
        for name in FIGURES
    ]
    for name in FIGURES:
        for direction in DIRECTIONS:
            text = f"area, {ORDER[direction]}, {HELP[name]}"
            sign = "+" if direction == "positive" else "-"
            found.append(
                Column(f"{name}/{direction}", sign, f"{name.replace('_', '-')}, areas", BETTER[direction], text)
            )
    spoken = {**{kind: f"words of {kind}" for kind in KINDS}, "whole": "all words"}
    for what, words in spoken.items() if known else ():
        found += [Column(f"{what}/{p}", p, f"{words} on objects", "higher", PLACED[p].format(words)) for p in PLACES]
    return found


def _charts(perturbation: Mapping[str, Any], wholes: Sequence[tuple[str, str | None]]) -> list[Chart]:
    shares, found = tuple(perturbation["protocol"]["shares"]), []
    for figure in FIGURES:
        by_name = perturbation[figure]["curves"]
        for direction in DIRECTIONS:
            curves = tuple(
                Curve(name, *(tuple(by_name[key][direction][end]) for end in ("mean", "low", "high")))
                for name, key in _names(wholes)
            )
            found.append(Chart(f"patches, {ORDER[direction]}", figure, shares, curves, BETTER[direction]))
    return found


def _names(wholes: Sequence[tuple[str, str | None]]) -> list[tuple[str, str]]:
    """Of each map its name in the report, and in metrics.json."""
    return [(w, w) if name is None else (label((w, name)), f"{w}/{name}") for w, name in wholes]
