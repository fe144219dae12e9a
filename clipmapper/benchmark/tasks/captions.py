"""A model's own captions: what removing patches does to them, and on Shapes what the maps of their words fall on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.benchmark.measure import explain_batch, location, removal
from clipmapper.benchmark.page import location_columns, removal_columns
from clipmapper.benchmark.run import method_names
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Records, Scorer, Task
from clipmapper.benchmark.tasks.caption_report import caption_explanation, caption_sample, scene_explanation
from clipmapper.benchmark.tasks.caption_words import SHARE, WordMaps, grid_of
from clipmapper.data.captions import Captions
from clipmapper.explain.caption_removal import CaptionScorer, dropping
from clipmapper.explain.ground_truth import said_words
from clipmapper.explain.models.captioner import CaptionBatch, Captioner, MapperCaptioner, RecordedCaptions
from clipmapper.explain.weights import METRICS, References, caption_weights, metric
from clipmapper.images import BadImage, load_image, readable
from clipmapper.metrics.caption_truth import KINDS, claims, scenes_of
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.fingerprint import weights_fingerprint
from xai.figures.filmstrip import strips
from xai.figures.render import compare
from xai.metrics.protocols import Protocol
from xai.recording.reads import Needs
from xai.report.data import Column, Explanation, Sample
from xai.results.captions import CaptionRelevance

FIGURES = {
    "RefCLIPScore": ("RefCLIPScore of the caption that is written without the patches", False),
    "CIDEr": ("CIDEr of the caption that is written without the patches", False),
    "log_probability": ("the old caption's log-probability, less that on the whole image", False),
}
THERE, ABSENT = "there", "absent"  # words that name what the scene has, and what it has not
WEIGHTED = "wra"  # the method whose caption-level maps are also weighted by metrics
GROUND_TRUTH = "ground truth"  # shown in the gallery as if it were a method
WORDS = 16  # tokens of a caption, about: methods of many passes take theirs for each
CPU_BATCH = 256  # images without patches at once: a step of writing costs much the same for more captions


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

    name, unit, targets = "captions", "caption", WORDS
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
        images = readable(rows, lambda row: self.split.source(self.rows[row]))
        inputs = self.model.prepare([*images.values()]) if images else None
        texts = self.model.write(inputs) if images else []
        tokens = {row: text for row, text in zip(images, texts, strict=True) if text}
        if not tokens:
            raise BadImage(f"none of {len(rows)} images can be read and captioned")
        if len(tokens) < len(images):
            inputs = self.model.prepare([images[row] for row in tokens])
        records = {
            "image_id": [self.ids[row] for row in tokens],
            "row": list(tokens),
            "data_row": [self.rows[row] for row in tokens],
            "caption": [self.model.text(text) for text in tokens.values()],
            "reference": [self.references[row][0] for row in tokens],
        }
        return Batch(records["image_id"], CaptionBatch(inputs, list(tokens.values())), records)

    def record(self, batch: Batch, reads: Needs) -> RecordedCaptions:
        return self.model.record(batch.inputs, reads)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        if self.scenes is None:
            return batch.records
        texts = zip(batch.records["caption"], batch.records["row"], strict=True)
        said = [claims(text, self.scenes[row]) or [("readable", False)] for text, row in texts]
        return {**batch.records, "right": [all(right for _, right in claim) for claim in said]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        captions, tokens = self._captions(batch, explained), batch.inputs.tokens
        recording, ids = explained.recorded.recording, torch.tensor(batch.ids)
        first = np.cumsum([0, *map(len, tokens)])[:-1]  # the recording's rows are the captions' tokens
        patches = (recording.mask & ~recording.special)[:, recording.modalities["image"]][first]
        scorers = [self._removal(batch, explained, patches, ids)] if self.config.removal else []
        if self.scenes is None:
            return {"caption": Maps(self._whole_maps(batch, explained, captions, patches), ids, scorers)}
        scenes, words = [self.scenes[row] for row in batch.records["row"]], self.model.words(tokens)
        rows = self.names(explained.methods)
        by_word = WordMaps(captions, rows, words, batch.ids, scenes, patches, grid_of(recording))
        said = said_words(words, scenes)
        named = [word for word in said if word.things]
        things = [(i, {t for word in named if word.caption == i for t in word.things}) for i in range(len(scenes))]
        scorers.append(location(by_word.regions(things, patches), patches))
        return {
            "caption": Maps(self._whole_maps(batch, explained, captions, patches), ids, scorers),
            **{kind: by_word.on_objects([word for word in named if word.kind == kind]) for kind in KINDS},
            THERE: by_word.on_image(named),
            ABSENT: by_word.on_image([word for word in said if not word.things]),
        }

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
            words = self.model.words(batch.inputs.tokens)[place]
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
        recorded: RecordedCaptions = explained.recorded  # type: ignore[assignment]
        predict = self.model.predictor(batch.inputs, recorded, self.protocol, self.scorer, batch.records["row"])
        size = self.config.removal_batch or (CPU_BATCH if content.device.type == "cpu" else None)
        return removal(explained.progress.removals(predict), self.protocol, content, None, ids, size)

    def _whole_maps(
        self, batch: Batch, explained: Explained, captions: Mapping[str, CaptionRelevance], content: Tensor
    ) -> Tensor:
        """The caption-level maps of all rows of the table [rows, B, tokens]; notes why a weighted row has none."""
        absent = torch.full(content.shape, torch.nan, device=content.device)
        scores = [captions[n].whole().scores["image"] if n in captions else absent for n in explained.methods]
        tokens, rows = batch.inputs.tokens, batch.records["row"]
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
        return {n: self.model.relevance(batch.inputs, r) for n, r in explained.relevances().items()}

    def _shown(self, batch: Batch, explained: Explained) -> dict[str, CaptionRelevance]:
        return {n: r for n, r in self._captions(batch, explained).items() if n not in explained.errors}


def unavailable(names: Iterable[str], references: References) -> dict[str, str]:
    """Returns which metrics by which words are weighted cannot be computed here, and why."""
    reasons = {}
    for name in names:
        try:
            metric(METRICS[name], references[0][:1], [0], references)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons
