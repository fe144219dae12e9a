"""A model's own captions: what removing patches does to them, and on Shapes what the maps of their words fall on."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.benchmark.measure import explain_batch, location, removal, share_of
from clipmapper.benchmark.page import location_columns, removal_columns
from clipmapper.benchmark.run import method_names
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Records, Scorer, Task
from clipmapper.benchmark.tasks.caption_report import caption_explanation, caption_sample, scene_explanation
from clipmapper.data.captions import Captions
from clipmapper.explain.caption_removal import CaptionScorer, dropping
from clipmapper.explain.ground_truth import NamedWord, said_words, scene_region
from clipmapper.explain.models.captioner import Captioner, MapperCaptioner, RecordedCaptions
from clipmapper.explain.weights import METRICS, References, caption_weights, metric
from clipmapper.images import BadImage, load_image
from clipmapper.metrics.caption_truth import KINDS, claims, scenes_of
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.fingerprint import weights_fingerprint
from xai.explanation import Lrp
from xai.figures.filmstrip import strips
from xai.figures.render import compare
from xai.metrics.protocols import Protocol
from xai.recording.recording import Recording
from xai.report.data import Column, Explanation, Sample
from xai.results.captions import CaptionRelevance

FIGURES = {
    "RefCLIPScore": ("RefCLIPScore of the caption that is written without the patches", False),
    "CIDEr": ("CIDEr of the caption that is written without the patches", False),
    "log_probability": ("the old caption's log-probability, less that on the whole image", False),
}
THERE, ABSENT, SHARE = "there", "absent", "image_share"
WEIGHTED = "wra"  # the method whose caption-level maps are also weighted by metrics
GROUND_TRUTH = "ground truth"  # shown in the gallery as if it were a method
CPU_BATCH = 256  # images without patches at once: a step of writing costs much the same for more captions
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

    name, unit = "captions", "caption"
    order = ("caption/RefCLIPScore/srg",)

    def __init__(
        self,
        model: CLIPMapper | Captioner,
        split: Captions,
        config: BenchmarkConfig,
        root: Path | None,
        judge: FrozenCLIP,
        weighted: bool = True,
    ) -> None:
        self.model = model if isinstance(model, Captioner) else MapperCaptioner(model)
        self.split, self.config, self.judge, self.protocol = split, config, judge, dropping(config.protocol)
        self.module, self.batch_size = self.model.module, self.model.batch_size
        self.rows = split.rows[split.one_each(config.samples)].tolist()
        if len(self.rows) < 2:
            raise ValueError("explainers of captions are compared on 2 images at least: give more --benchmark.samples")
        ids = split.records["image_id"]
        self.ids = [ids[row] for row in self.rows]
        self.references = [split.references(row) for row in self.rows]
        self.scenes = None if root is None else scenes_of(root, self.ids)
        if self.scenes is None and not config.removal:
            raise ValueError(
                "captions of data without scenes are measured by removal alone: leave out --benchmark.removal=false"
            )
        self.scorer = CaptionScorer(judge, [split.source(row) for row in self.rows], self.references)
        wanted = METRICS if weighted and WEIGHTED in method_names(config) else {}
        missing = unavailable(wanted, self.references)
        self.weights = tuple(name for name in wanted if name not in missing)
        self.order = ("caption/RefCLIPScore/srg",) if config.removal else ("caption/mass",)
        self.facts = {
            "model": self.model.description,
            "data": str(root or "a hub data set"),
            "judge": f"{judge.name} with weights {judge.pretrained}",
            "protocol": config.protocol,
            **{f"weights by {name}": f"left out: {reason}" for name, reason in missing.items()},
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
        return self.model.parameter_groups

    def batch(self, rows: Sequence[int]) -> Batch:
        """Returns images with their captions; those that cannot be read, or of which the model says nothing, are left out."""
        images = {}
        for row in rows:
            with suppress(BadImage):
                images[row] = load_image(self.split.source(self.rows[row]))
        texts = self.model.write(self.model.prepare([*images.values()])) if images else []
        tokens = {row: text for row, text in zip(images, texts, strict=True) if text}
        if not tokens:
            raise BadImage(f"none of {len(rows)} images can be read and captioned")
        records = {
            "image_id": [self.ids[row] for row in tokens],
            "row": list(tokens),
            "data_row": [self.rows[row] for row in tokens],
            "caption": [self.model.text(text) for text in tokens.values()],
            "reference": [self.references[row][0] for row in tokens],
        }
        inputs = self.model.prepare([images[row] for row in tokens])
        return Batch(records["image_id"], (inputs, list(tokens.values())), records)

    def record(self, batch: Batch, lrp: Lrp) -> RecordedCaptions:
        inputs, tokens = batch.inputs
        return self.model.record(inputs, tokens, lrp)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        if self.scenes is None:
            return batch.records
        texts = zip(batch.records["caption"], batch.records["row"], strict=True)
        said = [claims(text, self.scenes[row]) or [("readable", False)] for text, row in texts]
        return {**batch.records, "right": [all(right for _, right in claim) for claim in said]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        captions, rows = self._captions(batch, explained), batch.records["row"]
        recording, ids = explained.recorded.recording, torch.tensor(batch.ids)
        grid, content = grid_of(recording), self._patches(batch, recording)
        scorers = [self._removal(batch, explained, content, ids)] if self.config.removal else []
        if self.scenes is None:
            return {"caption": Maps(self._whole_maps(batch, explained, captions, content), ids, scorers)}
        said = said_words(self.model.words(batch.inputs[1]), [self.scenes[row] for row in rows])
        named = [word for word in said if word.things]
        things = [
            (i, {thing for word in named if word.caption == i for thing in word.things}) for i in range(len(rows))
        ]
        scorers.append(location(self._regions(things, rows, content, grid), content))
        maps = {"caption": Maps(self._whole_maps(batch, explained, captions, content), ids, scorers)}
        for kind in KINDS:
            words = [word for word in named if word.kind == kind]
            maps[kind] = self._word_maps(words, batch, captions, explained.methods, content, grid)
        absent = [word for word in said if not word.things]
        for name, words in ((THERE, named), (ABSENT, absent)):
            maps[name] = self._share_maps(words, batch, captions, explained.methods)
        return maps

    def columns(self) -> list[Column]:
        columns = removal_columns("caption", "image", FIGURES, [f"caption/{figure}/srg" for figure in FIGURES])
        columns += location_columns("caption", "all named objects", "all objects that the caption names")
        for kind in KINDS:
            what = f"the objects that a word of {kind} names"
            columns += location_columns(kind, f"objects of {kind} words", what, f"words of {kind}")
        for name, what in ((THERE, "objects that are there"), (ABSENT, "objects that are not there")):
            share = f"share of the positive relevance of words of {what} that is on the image; the rest is on the words before"
            columns.append(Column(f"{name}/{SHARE}", f"on image, {what}", "hallucination", None, share, printed=False))
        return columns

    def pictures(self, batch: Batch, explained: Explained) -> Iterator[tuple[Figure, str]]:
        """Yields the words one by one, by the first method, and the caption-level map by every method."""
        captions, geometry = self._shown(batch, explained), self.model.geometry
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
            scene = self.scenes[batch.records["row"][place]]
            words = self.model.words(batch.inputs[1])[place]
            shown[GROUND_TRUTH] = scene_explanation(words, scene, grid_of(explained.recorded.recording))
        return shown

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        try:
            image = load_image(self.split.source(record["data_row"]))
        except BadImage:
            return None
        return caption_sample(record, image, self.model.geometry, explanations)

    def save_filmstrips(self, path: Path, method: str, count: int = 10) -> None:
        """Draws captions with the maps of their words by one method."""
        batch = self.batch(range(min(count, len(self))))
        relevance = self._captions(batch, explain_batch(self, batch, [method]))[method]
        images = [load_image(self.split.source(row)) for row in batch.records["data_row"]]
        relevance.save_filmstrip(path, images, self.model.geometry)

    def _removal(self, batch: Batch, explained: Explained, content: Tensor, ids: Tensor) -> Scorer:
        (inputs, tokens), recorded = batch.inputs, explained.recorded
        predict = self.model.predictor(
            inputs,
            tokens,
            recorded,  # type: ignore[arg-type]
            self.protocol,
            self.scorer,
            batch.records["row"],
        )
        size = self.config.removal_batch or (CPU_BATCH if content.device.type == "cpu" else None)
        return removal(explained.progress.removals(predict), self.protocol, content, None, ids, size)

    def _whole_maps(
        self, batch: Batch, explained: Explained, captions: Mapping[str, CaptionRelevance], content: Tensor
    ) -> Tensor:
        """The caption-level maps of all rows of the table [rows, B, tokens]; notes why a weighted row has none."""
        absent = torch.full(content.shape, torch.nan, device=content.device)
        scores = [captions[n].whole().scores["image"] if n in captions else absent for n in explained.methods]
        tokens, rows = batch.inputs[1], batch.records["row"]
        for name in self.weights:
            row = f"{WEIGHTED}/{name}"
            scores.append(absent)
            if WEIGHTED in explained.errors:
                explained.errors[row] = explained.errors[WEIGHTED]
            elif WEIGHTED in captions:
                try:
                    weights = caption_weights(self.model.text, tokens, self.references, name, rows)
                    scores[-1] = captions[WEIGHTED].whole(weights).scores["image"]
                except ValueError as error:
                    explained.errors[row] = str(error)
        return torch.stack([s.float() for s in scores])

    def _captions(self, batch: Batch, explained: Explained) -> dict[str, CaptionRelevance]:
        """The captions' relevance by each method that is measured here."""
        inputs, tokens = batch.inputs
        return {n: self.model.relevance(inputs, tokens, r) for n, r in explained.relevances().items()}

    def _shown(self, batch: Batch, explained: Explained) -> dict[str, CaptionRelevance]:
        return {n: r for n, r in self._captions(batch, explained).items() if n not in explained.errors}

    def _word_maps(
        self,
        words: Sequence[NamedWord],
        batch: Batch,
        captions: Mapping[str, CaptionRelevance],
        methods: Sequence[str],
        content: Tensor,
        grid: tuple[int, int],
    ) -> Maps:
        """The maps of some words, perhaps of none; a weighted row has none of its own."""
        places = self._places(words, batch)
        of = torch.tensor([word.caption for word in words], dtype=torch.long)
        valid = content[of.to(content.device)]
        absent = torch.full(valid.shape, torch.nan, device=content.device)
        scores = [captions[n].per_word.scores["image"][places].float() if n in captions else absent for n in methods]
        scores += [absent for _ in self.weights]
        regions = self._regions([(word.caption, word.things) for word in words], batch.records["row"], valid, grid)
        ids = [MOST_WORDS * batch.ids[word.caption] + word.place for word in words]
        return Maps(torch.stack(scores), torch.tensor(ids, dtype=torch.long), [location(regions, valid)], of)

    def _share_maps(
        self,
        words: Sequence[NamedWord],
        batch: Batch,
        captions: Mapping[str, CaptionRelevance],
        methods: Sequence[str],
    ) -> Maps:
        """The maps of some words over image and earlier words, scored by the share of the image."""
        places = self._places(words, batch)
        of = torch.tensor([word.caption for word in words], dtype=torch.long)
        frame = next((relevance.per_word for relevance in captions.values()), None)
        if frame is None:
            return Maps(torch.full((len(methods) + len(self.weights), len(words), 1), torch.nan), of, [], of)
        modalities = ("image", "text")
        valid = torch.cat([frame.content(name)[places] for name in modalities], dim=1)
        absent = torch.full(valid.shape, torch.nan, device=valid.device)
        scores = [
            torch.cat([captions[n].per_word.scores[name][places].float() for name in modalities], dim=1)
            if n in captions
            else absent
            for n in methods
        ]
        share = share_of(slice(0, frame.scores["image"].shape[1]), valid, SHARE)
        ids = [MOST_WORDS * batch.ids[word.caption] + word.place for word in words]
        stacked = torch.stack([*scores, *(absent for _ in self.weights)])
        return Maps(stacked, torch.tensor(ids, dtype=torch.long), [share], of)

    def _places(self, words: Sequence[NamedWord], batch: Batch) -> list[int]:
        """Where words of captions are among the words of all captions."""
        starts = np.cumsum([0, *map(len, self.model.words(batch.inputs[1]))])
        return [int(starts[word.caption]) + word.place for word in words]

    def _patches(self, batch: Batch, recording: Recording) -> Tensor:
        """The image tokens [B, tokens] of each caption that are patches; its rows are those of the caption's tokens."""
        first = np.cumsum([0, *map(len, batch.inputs[1])])[:-1]
        return (recording.mask & ~recording.special)[:, recording.modalities["image"]][first]

    def _regions(
        self,
        things: Sequence[tuple[int, Collection[int]]],
        rows: Sequence[int],
        content: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Returns the share of each token that objects cover, [N, tokens], from (caption, its objects)."""
        assert self.scenes is not None
        regions = torch.zeros(content.shape)
        for i, (caption, some) in enumerate(things):
            regions[i, content[i].cpu()] = scene_region(self.scenes[rows[caption]], list(some), grid).flatten()
        return regions


def grid_of(recording: Recording) -> tuple[int, int]:
    """Returns rows and columns of the image's tokens; raises ValueError where they lie in none."""
    if "image" not in recording.grids:
        raise ValueError("the image's tokens lie in no grid, so that objects cannot be found on them")
    return recording.grids["image"]


def unavailable(names: Iterable[str], references: References) -> dict[str, str]:
    """Returns which metrics by which words are weighted cannot be computed here, and why."""
    reasons = {}
    for name in names:
        try:
            metric(METRICS[name], references[0][:1], [0], references)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons
