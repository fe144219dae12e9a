"""A model's own captions: what removing patches does to them, and on Shapes what the maps of their words fall on."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from clipmapper.benchmark.measure import explain_batch, location, removal
from clipmapper.benchmark.page import location_columns, removal_columns
from clipmapper.benchmark.run import method_names
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Pass, Records, Task
from clipmapper.data.captions import Captions
from clipmapper.data.images import BadImage, load_image
from clipmapper.data.shapes.scene import Scene
from clipmapper.explain.answers import FromPixels, preprocessing
from clipmapper.explain.caption_removal import CaptionScorer, dropping, predictor
from clipmapper.explain.captions import Steps, caption_relevance, record_steps, require_captioner, steps_of, written
from clipmapper.explain.ground_truth import NamedWord, named_words, scene_region
from clipmapper.explain.weights import METRICS, caption_weights
from clipmapper.metrics.caption_truth import KINDS, claims, scenes_of
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.fingerprint import weights_fingerprint
from xai.explain import Lrp
from xai.figures.filmstrip import strips
from xai.figures.render import compare
from xai.metrics.protocols import Protocol
from xai.report.data import Column, Explanation, Sample, Step
from xai.results.captions import CaptionRelevance
from xai.results.words import merge_pieces

FIGURES = {
    "RefCLIPScore": ("RefCLIPScore of the caption that is written without the patches", False),
    "CIDEr": ("CIDEr of the caption that is written without the patches", False),
    "log_probability": ("the old caption's log-probability, less that on the whole image", False),
}
WEIGHTED = "wra"  # the method whose caption-level maps are also weighted by metrics
GROUND_TRUTH = "ground truth"  # shown in the gallery as if it were a method
MOST_WORDS = 1000  # more than a caption has: gives each word a number of its own


class CaptionsTask(Task):
    """A model's greedy captions of images from all over a split.

    A caption-level map is the weighted sum of the maps of its words; equal weights unless a row's name says otherwise.

    Args:
        model: what writes.
        split: the images with their references.
        config: the settings.
        root: folder of the data, whose scenes are the ground truth if it is Shapes.
        judge: the CLIP by which RefCLIPScore scores.
        weighted: whether WRA's maps are also weighted by how much metrics drop without a word (WRA eq. 21).
    """

    name, unit, batch_size = "captions", "caption", 8
    module: FromPixels
    order = ("caption/RefCLIPScore/srg",)

    def __init__(
        self,
        model: CLIPMapper,
        split: Captions,
        config: BenchmarkConfig,
        root: Path | None,
        judge: FrozenCLIP,
        weighted: bool = True,
    ) -> None:
        require_captioner(model)
        self.model, self.split, self.config, self.judge = model, split, config, judge
        self.module, self.protocol = FromPixels(model), dropping(config.protocol)
        self.rows, self.tokens = written_captions(model, split, config.samples)
        ids = split.records["image_id"]
        self.ids = [ids[row] for row in self.rows]
        self.references = [split.references(row) for row in self.rows]
        self.scenes = None if root is None else scenes_of(root, self.ids)
        self.missing: dict[str, str] = {}
        self.weights = self._weights(weighted and WEIGHTED in method_names(config))
        if not config.removal:
            self.order = ("caption/mass",)
        self.facts = {
            "model": f"mapper {model.config.mapper} over {model.config.clip}",
            "data": str(root or "a hub data set"),
            "judge": f"{judge.name} with weights {judge.pretrained}",
            "protocol": config.protocol,
            **{f"weights by {name}": f"left out: {reason}" for name, reason in self.missing.items()},
        }

    def __len__(self) -> int:
        return len(self.rows)

    def key(self) -> dict[str, Any]:
        model, judge = weights_fingerprint(self.module), self.judge.fingerprint
        return {"task": self.name, "model": model, "judge": judge, "images": self.ids}

    def names(self, methods: Sequence[str]) -> tuple[str, ...]:
        return (*methods, *(f"{WEIGHTED}/{name}" for name in self.weights))

    def protocols(self) -> dict[str, Protocol]:
        return {"caption": self.protocol} if self.config.removal else {}

    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        trained = ("image_projection", "text_projection", "mapper", "head")
        return {"mapper": tuple(f"model.{name}" for name in trained), "clip": ("model.clip",)}

    def batch(self, rows: Sequence[int]) -> Batch:
        pixels = {}
        for row in rows:
            with suppress(BadImage):
                pixels[row] = self.model.clip.pixels(load_image(self.split.source(self.rows[row])))
        if not pixels:
            raise BadImage(f"none of {len(rows)} images can be read")
        stacked = torch.stack(list(pixels.values())).to(self.model.clip.model.visual.conv1.weight)
        steps = steps_of(self.model, [self.tokens[row] for row in pixels])
        records = {
            "image_id": [self.ids[row] for row in pixels],
            "row": list(pixels),
            "data_row": [self.rows[row] for row in pixels],
            "caption": [self.model.text_of(self.tokens[row]) for row in pixels],
            "reference": [self.references[row][0] for row in pixels],
        }
        return Batch(records["image_id"], (stacked, steps), records)

    def record(self, batch: Batch, lrp: Lrp) -> Pass:
        pixels, steps = batch.inputs
        return Pass(record_steps(self.model, pixels, steps, lrp, self.module), steps.target)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        if self.scenes is None:
            return batch.records
        texts = zip(batch.records["caption"], batch.records["row"], strict=True)
        said = [claims(text, self.scenes[row]) or [("readable", False)] for text, row in texts]
        return {**batch.records, "right": [all(right for _, right in claim) for claim in said]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        captions = self._captions(batch, explained)
        rows, ids = batch.records["row"], torch.tensor(batch.ids)
        recording = explained.recorded.recording
        content = (recording.mask & ~recording.special)[:, recording.modalities["image"]][: len(rows)]
        absent = torch.full(content.shape, torch.nan, device=content.device)
        scores = [captions[n].whole().scores["image"] if n in captions else absent for n in explained.methods]
        for weights in self.weights.values():
            one = captions.get(WEIGHTED)
            scores.append(absent if one is None else one.whole([weights[row] for row in rows]).scores["image"])
        scorers = []
        if self.config.removal:
            predict = predictor(self.model, batch.inputs[0], [self.tokens[row] for row in rows], self.scorer, rows)
            scorers.append(removal(predict, self.protocol, content, None, ids, self.config.removal_batch))
        if self.scenes is None:
            return {"caption": Maps(torch.stack([s.float() for s in scores]), ids, scorers)}
        named = self._named(batch.inputs[1], rows)
        things = [sorted({t for word in named if word.caption == i for t in word.things}) for i in range(len(rows))]
        scorers.append(location(self._regions([(i, t) for i, t in enumerate(things)], rows, content), content))
        maps = {"caption": Maps(torch.stack([s.float() for s in scores]), ids, scorers)}
        for kind in KINDS:
            words = [word for word in named if word.kind == kind]
            if words:
                maps[kind] = self._word_maps(words, batch, captions, explained.methods, content)
        return maps

    def columns(self) -> list[Column]:
        columns = removal_columns("caption", "patches", FIGURES, [f"caption/{figure}/srg" for figure in FIGURES])
        columns += location_columns("caption", "all named objects", "all objects that the caption names")
        for kind in KINDS:
            what = f"the objects that a word of {kind} names"
            columns += location_columns(kind, f"objects of {kind} words", what, f"words of {kind}")
        return columns

    def pictures(self, batch: Batch, explained: Explained) -> Iterator[tuple[Figure, str]]:
        """Yields the words one by one, by the first method, and the caption-level map by every method."""
        captions, geometry = self._shown(batch, explained), preprocessing(self.model.clip)
        for i, row in enumerate(batch.records["data_row"] if captions else []):
            image, alone = load_image(self.split.source(row)), [relevance.only(i) for relevance in captions.values()]
            text = batch.records["caption"][i]
            for strip in strips(alone[0], 0, image, geometry):
                yield strip, f"{next(iter(captions))}, word by word: {text}"
            whole = [replace(relevance.whole(), target=None) for relevance in alone]
            yield compare(whole, [image], geometry, [text]), f"{text} (reference: {batch.records['reference'][i]})"

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        shown = {n: caption_explanation(r.only(place)) for n, r in self._shown(batch, explained).items()}
        if self.scenes is not None:
            words = words_of(self.model, batch.inputs[1])[place]
            shown[GROUND_TRUTH] = self._named_explanation(words, self.scenes[batch.records["row"][place]])
        return shown

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        try:
            image = load_image(self.split.source(record["data_row"]))
        except BadImage:
            return None
        png = io.BytesIO()
        image.save(png, "PNG")
        placed = preprocessing(self.model.clip)((image.height, image.width))
        (top, left), (height, width), (rows, columns) = placed.offset, placed.window, placed.resized
        return Sample(
            id=str(record["image_id"]),
            image=png.getvalue(),
            question=record["caption"],
            answer=record["reference"],
            prediction="",
            right=record.get("right"),
            answer_type="",
            explanations=explanations,
            window=(left / columns, top / rows, width / columns, height / rows),
        )

    def save_filmstrips(self, path: Path, method: str, count: int = 10) -> None:
        """Draws captions with the maps of their words by one method."""
        batch = self.batch(range(min(count, len(self))))
        relevance = self._captions(batch, explain_batch(self, batch, [method]))[method]
        images = [load_image(self.split.source(row)) for row in batch.records["data_row"]]
        relevance.save_filmstrip(path, images, preprocessing(self.model.clip))

    @cached_property
    def scorer(self) -> CaptionScorer:
        sources = [self.split.source(row) for row in self.rows]
        return CaptionScorer.of(self.judge, sources, self.references)

    def _weights(self, wanted: bool) -> dict[str, list[Tensor]]:
        """Of each caption the weights of its tokens, by each metric that can be computed here."""
        weights = {}
        for name in METRICS if wanted else ():
            try:
                weights[name] = caption_weights(self.model, self.tokens, self.references, name)
            except ValueError as error:
                self.missing[name] = str(error)
        return weights

    def _captions(self, batch: Batch, explained: Explained) -> dict[str, CaptionRelevance]:
        """The captions' relevance by each method that is measured here."""
        steps = batch.inputs[1]
        return {n: caption_relevance(self.model, steps, r) for n, r in explained.relevances().items()}

    def _shown(self, batch: Batch, explained: Explained) -> dict[str, CaptionRelevance]:
        return {n: r for n, r in self._captions(batch, explained).items() if n not in explained.errors}

    def _named(self, steps: Steps, rows: Sequence[int]) -> list[NamedWord]:
        assert self.scenes is not None
        return named_words(words_of(self.model, steps), [self.scenes[row] for row in rows])

    def _word_maps(
        self,
        words: Sequence[NamedWord],
        batch: Batch,
        captions: Mapping[str, CaptionRelevance],
        methods: Sequence[str],
        content: Tensor,
    ) -> Maps:
        """The maps of some words; a weighted row has none of its own."""
        starts = np.cumsum([0, *map(len, words_of(self.model, batch.inputs[1]))])
        places = [int(starts[word.caption]) + word.place for word in words]
        of = torch.tensor([word.caption for word in words])
        valid = content[of.to(content.device)]
        absent = torch.full(valid.shape, torch.nan, device=content.device)
        scores = [captions[n].per_word.scores["image"][places].float() if n in captions else absent for n in methods]
        scores += [absent for _ in self.weights]
        regions = self._regions([(w.caption, w.things) for w in words], batch.records["row"], valid)
        ids = torch.tensor([MOST_WORDS * batch.ids[word.caption] + word.place for word in words])
        return Maps(torch.stack(scores), ids, [location(regions, valid)], of)

    def _regions(self, things: Sequence[tuple[int, Sequence[int]]], rows: Sequence[int], content: Tensor) -> Tensor:
        """How much of each token objects cover, [N, tokens], of (caption, its objects)."""
        assert self.scenes is not None
        grid = self.model.clip.grid
        shares = [scene_region(self.scenes[rows[caption]], some, grid).flatten() for caption, some in things]
        return torch.zeros(content.shape).masked_scatter(content.cpu(), torch.cat(shares))

    def _named_explanation(self, words: Sequence[str], scene: Scene) -> Explanation:
        """How much of each patch the objects cover that are named, by all words and by each."""
        grid, named = self.model.clip.grid, {word.place: word.things for word in named_words([words], [scene])}
        nothing = (0.0,) * len(words)
        regions = [scene_region(scene, named.get(i, ()), grid) for i in range(len(words))]
        steps = tuple(Step(rows_of(region), nothing) for region in regions)
        everything = sorted({thing for things in named.values() for thing in things})
        spoken = tuple((word, float(i in named)) for i, word in enumerate(words))
        return Explanation(rows_of(scene_region(scene, everything, grid)), spoken, None, steps)


def written_captions(
    model: CLIPMapper, split: Captions, count: int | None, batch: int = 64
) -> tuple[list[int], list[list[int]]]:
    """Captions images from all over the split; those that cannot be read, or of which the model says nothing, are left out.

    Returns:
        The images' rows, and the tokens of their captions.

    Raises:
        BadImage: no image can be read and captioned.
        ValueError: fewer than two, among which no word is rare.
    """
    rows: list[int] = []
    tokens: list[list[int]] = []
    candidates = split.rows[split.one_each(count)].tolist()
    for start in tqdm(
        range(0, len(candidates), batch), desc="captioning", unit="batch", disable=len(candidates) <= batch
    ):
        images = {}
        for row in candidates[start : start + batch]:
            with suppress(BadImage):
                images[row] = model.clip.pixels(load_image(split.source(row)))
        if images:
            texts = written(model, torch.stack(list(images.values())))
            rows += [row for row, text in zip(images, texts, strict=True) if text]
            tokens += [text for text in texts if text]
    if not rows:
        raise BadImage(f"none of {len(candidates)} images can be read and captioned")
    if len(rows) < 2:
        raise ValueError("explainers of captions are compared on 2 images at least: give more --benchmark.samples")
    return rows, tokens


def words_of(model: CLIPMapper, steps: Steps) -> list[list[str]]:
    """Returns the words of each caption."""
    pieces = [[model.clip.tokenizer.decode([int(model.token_ids[t])]) for t in caption] for caption in steps.tokens]
    return [[word for word, _ in merge_pieces(caption)] for caption in pieces]


def caption_explanation(relevance: CaptionRelevance) -> Explanation:
    """Returns what the report shows of a single caption. No step reads its last token, which thus has no relevance."""
    whole, words = relevance.whole(), relevance.words[0]
    scores = [score for _, score in whole.by_word("text")[0]]
    scores += [0.0] * (len(words) - len(scores))
    maps, between = relevance.word_maps()[0].tolist(), relevance.between_words()[0].tolist()
    steps = tuple(Step(tuple(map(tuple, patches)), tuple(row)) for patches, row in zip(maps, between, strict=True))
    return Explanation(rows_of(whole.map()[0]), tuple(zip(words, scores, strict=True)), None, steps)


def rows_of(patches: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, patches.nan_to_num().tolist()))
