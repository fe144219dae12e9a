"""LXMERT and VisualBERT as VQA models: models of transformers that see an image as regions that a detector has found."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from math import ceil, floor, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipmapper.data.shapes.truth import Truth
from clipmapper.errors import unknown
from clipmapper.explain.models.base import Classifier, PreparedQuestions, QuestionBatch, Recorded, answer_logit
from clipmapper.explain.removal import figures
from xai import Adapter, Relevance, record
from xai.adapters import adapter_for
from xai.adapters.regions import Regions, lxmert_inputs, visualbert_inputs
from xai.generation.inputs import moved
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol, Removal
from xai.metrics.removal import drop
from xai.recording.adapter import Layout, Stream
from xai.recording.reads import Needs
from xai.targets import logits

REGIONS: tuple[Removal, ...] = ("drop", "mean", "zero")
WORDS: tuple[Removal, ...] = ("drop", "mask_token", "mean", "zero")
PAINTED = (24, 24)  # rows and columns of the grid on which a report shows regions
FINE = (128, 128)  # pixels in which the deciding region is drawn


@dataclass(frozen=True)
class Family:
    """The differences between LXMERT and VisualBERT. The probability is that of the loss they were published with."""

    model: str  # class of transformers
    inputs: Callable[[Sequence[Regions]], dict[str, Tensor]]
    regions: tuple[str, ...]  # the arguments that hold regions [B, R, ...], features first
    width: str  # the configuration's name for the features' width
    probabilities: Callable[[Tensor], Tensor]  # from logits [N, answers]


FAMILIES = {
    "lxmert": Family(
        "LxmertForQuestionAnswering", lxmert_inputs, ("visual_feats", "visual_pos"), "visual_feat_dim", torch.sigmoid
    ),
    "visualbert": Family(
        "VisualBertForQuestionAnswering",
        visualbert_inputs,
        ("visual_embeds",),
        "visual_embedding_dim",
        partial(torch.softmax, dim=1),
    ),
}


@dataclass(frozen=True, eq=False)
class RegionInputs:
    """Questions and regions as the model takes them."""

    arguments: dict[str, Tensor]
    boxes: Tensor  # [B, R, 4]: x1, y1, x2, y2 as shares of the image; 0 at padding
    spans: Tensor  # [B, T, 2]: first character of each token in its question and the one after its last
    words: list[list[str]]
    scores: Tensor  # [B, answers]


class RegionModel(Classifier):
    """`find` gives the regions of an image by its id or the name of its file, None if it has none."""

    module: Any  # transformers' models have no common type

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        tokenizer: Any,
        answers: Sequence[str],
        find: Callable[[str], Regions | None],
    ) -> None:
        self.family, self.module, self.tokenizer, self.answers, self.find = family, model, tokenizer, answers, find
        self.adapter = as_image(adapter_for(model))
        self.description = f"{family.model} with {len(answers)} answers"

    def prepare(self, batch: QuestionBatch) -> RegionInputs:
        regions = [self._regions(str(i), n) for i, n in zip(batch.records["image_id"], batch.names, strict=True)]
        longest = self.module.config.max_position_embeddings
        texts = self.tokenizer(
            batch.records["question"],
            padding=True,
            truncation=True,
            max_length=longest,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        words = [self.tokenizer.convert_ids_to_tokens(ids) for ids in texts["input_ids"].tolist()]
        arguments = {name: texts[name] for name in ("input_ids", "attention_mask")} | self.family.inputs(regions)
        like = next(self.module.parameters())
        there = {name: moved(value, like) for name, value in arguments.items()}
        boxes = lxmert_inputs(regions)["visual_pos"].clamp(0, 1)
        return RegionInputs(there, boxes, texts["offset_mapping"], words, batch.scores(self.answers).to(like.device))

    def record(self, inputs: RegionInputs, reads: Needs) -> Recorded:
        with record(self.module, self.adapter, reads) as recorder:
            self.module(**inputs.arguments)
        labels = logits(recorder.recording.output).detach().argmax(dim=1)
        return Recorded(recorder.recording, answer_logit(labels, self.answers), labels, inputs.words)

    @torch.no_grad()
    def logits(self, inputs: RegionInputs) -> Tensor:
        return logits(self.module(**inputs.arguments))

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.family.probabilities(logits)

    @torch.no_grad()
    def predictor(self, inputs: RegionInputs, recorded: Recorded, protocol: Protocol) -> Predict:
        """Regions that are dropped take their boxes along, words close up; other removals put a filler in their place."""
        image = protocol.modality == "image"
        labels, changed = recorded.labels, self._without_regions if image else self._without_words
        known = REGIONS if image else WORDS
        if protocol.removal not in known:
            raise unknown("removal of regions" if image else "removal of words", protocol.removal, known)

        def predict(batch: Perturbed) -> dict[str, Tensor]:
            whole = {name: tensor[batch.rows] for name, tensor in inputs.arguments.items()}
            with _Empty() if not batch.length else nullcontext():
                outputs = logits(self.module(**{**whole, **changed(whole, batch, protocol.removal)}))
            return figures(outputs, self.probabilities(outputs), inputs.scores[batch.rows], labels[batch.rows])

        return predict

    def ground_truth(self, truth: Truth, questions: PreparedQuestions, frame: Relevance) -> dict[str, Tensor]:
        """Returns for a region the share of its box in the deciding objects, for a word 1 if it overlaps a deciding one."""
        keys = questions.records["question_id"]
        masks = [torch.from_numpy(truth.region(key, FINE)) for key in keys]
        image = [box_shares(mask, boxes) for mask, boxes in zip(masks, questions.inputs.boxes, strict=True)]
        text = torch.zeros(questions.inputs.spans.shape[:2])
        for i, (key, question) in enumerate(zip(keys, questions.records["question"], strict=True)):
            first, last = questions.inputs.spans[i].unbind(1)
            for start, stop in truth.words(key, question):
                text[i][(first < stop) & (start < last)] = 1
        return {"image": torch.stack(image), "text": text}

    def patches(self, relevance: Relevance, inputs: RegionInputs) -> Tensor:
        """Paints each region's relevance over its box; where boxes overlap the strongest one is seen."""
        scores = relevance.scores["image"].detach().float().cpu()
        grids = torch.zeros(len(scores), *PAINTED)
        for grid, row, boxes in zip(grids, scores.nan_to_num(), inputs.boxes.cpu(), strict=True):
            for i in row.abs().argsort().tolist():
                x1, y1, x2, y2 = boxes[i].tolist()
                rows = slice(floor(y1 * PAINTED[0]), ceil(y2 * PAINTED[0]))
                columns = slice(floor(x1 * PAINTED[1]), ceil(x2 * PAINTED[1]))
                if row[i]:
                    grid[rows, columns] = row[i]
        return grids

    def _regions(self, image: str, name: str) -> Regions:
        found = self.find(image) or (self.find(name) if name else None)
        if found is None:
            tried = " or ".join(repr(key) for key in (image, name) if key)
            raise ValueError(f"no regions of image {tried}: extract those of all held-out images into the table")
        wanted = getattr(self.module.config, self.family.width)
        if found.features.shape[1] != wanted:
            raise ValueError(
                f"regions of image {image!r} have features of width {found.features.shape[1]}, but the model takes "
                f"{wanted}: extract them with the detector that the model was trained with"
            )
        return found

    def _without_regions(self, whole: dict[str, Tensor], batch: Perturbed, removal: Removal) -> dict[str, Tensor]:
        if removal == "drop":
            left = {name: drop(whole[name], batch.keep, batch.length) for name in self.family.regions}
            return left | {"visual_attention_mask": batch.keep.new_ones(len(batch.keep), batch.length).long()}
        features, mask = whole[self.family.regions[0]], whole["visual_attention_mask"][..., None]
        filler = torch.zeros_like(features[:, :1])
        if removal == "mean":
            filler = (features * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
        return {self.family.regions[0]: features.where(batch.keep[..., None], filler)}

    def _without_words(self, whole: dict[str, Tensor], batch: Perturbed, removal: Removal) -> dict[str, Any]:
        if removal == "drop":
            ids = drop(whole["input_ids"], batch.keep, batch.length)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        embedding = self.module.get_input_embeddings()
        stand_in = {
            "zero": lambda: torch.zeros_like(embedding.weight[0]),
            "mean": lambda: embedding.weight.mean(dim=0),
            "mask_token": lambda: embedding.weight[self.tokenizer.mask_token_id],
        }[removal]()
        embedded = embedding(whole["input_ids"]).where(batch.keep[..., None], stand_in)
        return {"input_ids": None, "inputs_embeds": embedded}


class _Empty(TorchFunctionMode):
    """Lets a model run without any regions: it shapes tensors with -1, which torch refuses where there are no elements."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.view, Tensor.reshape) and not args[0].numel():
            shape = args[1] if isinstance(args[1], tuple) else args[1:]
            whole, known = (prod(n for n in sizes if n > 0) for sizes in (args[0].shape, shape))
            args = (args[0], tuple(whole // known if n == -1 else n for n in shape))
        return func(*args, **(kwargs or {}))


def as_image(adapter: Adapter) -> Adapter:
    """The adapter of a model of regions with "image" for the name of that modality."""
    layers = tuple(
        tuple(replace(site, queries=_renamed(site.queries), keys=_renamed(site.keys)) for site in layer)
        for layer in adapter.layers
    )

    theirs = {_renamed(stream): stream for site in adapter.sites for stream in (site.queries, site.keys)}

    def layout(inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        original = adapter.layout(inputs, {theirs[stream]: size for stream, size in sizes.items()})
        renamed: dict[str, Any] = {
            field.name: {_renamed((name,))[0]: value for name, value in getattr(original, field.name).items()}
            for field in fields(Layout)
        }
        return Layout(**renamed)

    return Adapter(layers, layout)


def box_shares(mask: Tensor, boxes: Tensor) -> Tensor:
    """Share of each box [R, 4], in shares of the image, that a mask [H, W] covers, [R]; at least one pixel is looked at."""
    height, width = mask.shape
    sums = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    sums[1:, 1:] = mask.double().cumsum(0).cumsum(1)
    x1, x2 = _pixels(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = _pixels(boxes[:, 1], boxes[:, 3], height)
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return (inside / ((y2 - y1) * (x2 - x1))).float()


def _pixels(first: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
    start = (first.cpu() * count).floor().long().clamp(max=count - 1)
    return start, torch.maximum((last.cpu() * count).ceil().long().clamp(max=count), start + 1)


def _renamed(stream: Stream) -> Stream:
    return tuple("image" if name == "regions" else name for name in stream)
