"""Held-out captions explained and measured: what explanations in training log of captions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.caption_relevance.curves import draw
from clipmapper.caption_relevance.measure import (
    AVERAGE,
    Captioned,
    Measured,
    Rule,
    Whole,
    explain_part,
    measure_part,
    pixels_of,
)
from clipmapper.caption_relevance.perturbation import FIGURES, Judge, dropping
from clipmapper.caption_relevance.summary import PLACES, by_image, mean_floor
from clipmapper.config import ExplainConfig, ReferenceConfig
from clipmapper.data.captions import CaptionData, Captions
from clipmapper.data.images import BadImage, load_image
from clipmapper.explain.answers import preprocessing
from clipmapper.explain.captions import require_captioner, written
from clipmapper.metrics.caption_truth import KINDS, scenes_of
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.training.sources import trained
from clipmapper.training.study import Found, Part, Study
from clipmapper.training.tasks import CaptionTask
from xai.figures.filmstrip import strips
from xai.figures.render import compare
from xai.metrics.statistics import Interval
from xai.results.captions import average

TRUTHS = tuple(f"truth/{what}_{figure}" for what in (*KINDS, "whole") for figure in PLACES)


class CaptionStudy(Study[CLIPMapper]):
    """All that explanations in validation know of captions. Raises ValueError for an unknown method, or none."""

    def __init__(self, config: ExplainConfig, root: Path | None) -> None:
        """`root` is the data's folder; if it is Shapes, its scenes are the truth."""
        super().__init__(config)
        if len(self.methods) == 1:
            raise ValueError("explain.methods is empty: name one, or set explain.every to 0")
        self.root = root
        self.protocol = dropping(config.protocol)
        self.wholes: list[Whole] = [(method, AVERAGE) for method in self.methods[:-1]]
        self._fixed: tuple[Captioned, Judge] | None = None

    def model(self, task: pl.LightningModule) -> CLIPMapper:
        if not isinstance(task, CaptionTask):
            raise ValueError("these explanations are of captions, which the task in training does not write")
        return task.model

    def check(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        super().check(trainer, task)
        self.fixed(trainer)

    def load(self, reference: ReferenceConfig, trainer: pl.Trainer, task: pl.LightningModule) -> CLIPMapper:
        where = f"explain.reference_models: {reference.label!r}"
        if reference.kind != "clipmapper" or reference.chosen():
            raise ValueError(f"{where} answers questions; beside a captioner name other captioners, of kind clipmapper")
        try:
            model = trained(reference.name).to(task.device)
            require_captioner(model)
        except (ValueError, OSError) as error:
            raise ValueError(f"{where} is no captioner to compare with ({error})") from error
        return model

    def explain(self, trainer: pl.Trainer, model: CLIPMapper) -> Found:
        """The model's own captions of the same images; all models' are judged by the CLIP of the one in training."""
        images, judge = self.fixed(trainer)
        rule = Rule(self.wholes, self.protocol, replace(judge, known={}))

        def measured(places: Sequence[int]) -> Part | None:
            kept, part = captioned(model, images, places)
            if not kept:
                return None
            equal = {AVERAGE: [average(len(caption)) for caption in part.tokens]}
            found = measure_part(model, part, explain_part(model, part, self.methods[:-1]), equal, rule, kept)
            curves = {f"image/{name}": curves for name, curves in mean_floor(found, self.wholes).items()}
            return Part(torch.tensor(part.ids), curves, truth_figures(found, len(self.methods)))

        protocols = {f"image/{name}": self.protocol for name in FIGURES}
        names = TRUTHS if images.scenes is not None else ()
        return self.collect(trainer, model.token_ids.device, protocols, names, range(len(images.ids)), measured)

    def pictures(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[tuple[Figure, str]]:
        """Of some captions the words one by one, by the first method, and the whole by every method."""
        model, (images, _) = self.model(task), self.fixed(trainer)
        geometry = preprocessing(model.clip)
        kept, part = captioned(model, images, range(min(self.config.pictures, len(images.ids))))
        if not kept:
            return
        explained = explain_part(model, part, self.methods[:-1]).worked
        if not explained:
            return
        for i, (source, given) in enumerate(zip(part.sources, part.references, strict=True)):
            image, alone = load_image(source), [relevance.only(i) for relevance in explained.values()]
            text = " ".join(alone[0].words[0])
            for strip in strips(alone[0], 0, image, geometry):
                yield strip, f"{next(iter(explained))}, word by word: {text}"
            wholes = [replace(relevance.whole(), target=None) for relevance in alone]
            yield compare(wholes, [image], geometry, [text]), f"{text} (given: {given[0]})"

    def draw(self, bands: Mapping[str, Interval]) -> Figure:
        return draw(bands, self.methods, self.config.protocol)

    def fixed(self, trainer: pl.Trainer) -> tuple[Captioned, Judge]:
        """The images, from all over the held-out ones, still without captions, and who judges captions of them."""
        if self._fixed is None:
            task, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
            assert isinstance(data, CaptionData)
            images = held_out(data.val, self.config.samples, self.root)
            self._fixed = images, Judge.of(self.model(task).clip, images.sources, images.references)
        return self._fixed


def held_out(split: Captions, count: int, root: Path | None) -> Captioned:
    """Images that can be read, without captions yet."""
    rows, ids = [], split.records["image_id"]
    for row in split.rows[split.one_each(count)].tolist():
        with suppress(BadImage):
            load_image(split.source(row))
            rows.append(row)
    if len(rows) < 2:
        raise ValueError(f"explain.every: {len(rows)} held-out images to explain captions of; there must be 2 at least")
    chosen = [ids[row] for row in rows]
    scenes = None if root is None else scenes_of(root, chosen)
    return Captioned(chosen, [split.source(r) for r in rows], [split.references(r) for r in rows], [], scenes)


def captioned(model: CLIPMapper, images: Captioned, places: Sequence[int]) -> tuple[list[int], Captioned]:
    """Some of the images with the model's greedy captions, and their places; not those of which it says nothing."""
    texts = written(model, pixels_of(model, picked(images, places, []))) if places else []
    kept = [place for place, text in zip(places, texts, strict=True) if text]
    return kept, picked(images, kept, [text for text in texts if text])


def picked(images: Captioned, places: Sequence[int], tokens: Sequence[Sequence[int]]) -> Captioned:
    return Captioned(
        [images.ids[i] for i in places],
        [images.sources[i] for i in places],
        [images.references[i] for i in places],
        tokens,
        None if images.scenes is None else [images.scenes[i] for i in places],
    )


def truth_figures(found: Measured, methods: int) -> dict[str, Tensor]:
    """[methods, images] by TRUTHS: of each kind of word the mean over an image's words. Empty without scenes."""
    if found.in_words is None or found.in_whole is None:
        return {}
    kinds, images = np.array(found.words["kind"]), np.array(found.words["image_id"])
    figures = {f"truth/whole_{name}": found.in_whole[i, :methods] for i, name in enumerate(PLACES)}
    for kind in KINDS:
        words = kinds == kind
        for i, name in enumerate(PLACES):
            figures[f"truth/{kind}_{name}"] = by_image(found.in_words[i, :methods][:, words], images[words])
    return {name: torch.from_numpy(values) for name, values in figures.items()}
