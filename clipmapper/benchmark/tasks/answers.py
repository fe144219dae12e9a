"""Answers to questions about images: what removing patches and words does to them, and where relevance falls."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clipmapper.benchmark import published
from clipmapper.benchmark.measure import RANDOM, location, removal, share_of
from clipmapper.benchmark.page import location_columns, removal_columns
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Recorded, Records, Scorer, Task
from clipmapper.data.files import column
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import VQAModel, prepare_questions
from clipmapper.images import BadImage, load_image, png
from clipmapper.models.fingerprint import weights_fingerprint
from xai.explanation import explain_recording
from xai.figures.render import compare
from xai.metrics.protocols import Protocol
from xai.metrics.ranking import random_relevance
from xai.recording.reads import Needs
from xai.report.data import Column, Explanation, Sample
from xai.results.relevance import Relevance

MODALITIES = {"image": "objects", "text": "words"}  # and what of them is relevant
FIGURES = {
    "probability": ("the explained answer's probability", True),
    "accuracy": ("the accuracy of the likeliest answer", True),
}
SHARE = "image_share"
GROUND_TRUTH = "ground truth"  # shown in the gallery as if it were a method
FEW_TYPES = 12  # question types that are strata; VQAv2's 65 are too many


class AnswersTask(Task):
    """A model's own answers to some questions.

    Args:
        model: what answers.
        questions: the split.
        rows: the questions' rows in it.
        config: the settings.
        root: folder of the data; its ground truth is used where it has one (Shapes).
    """

    name, unit = "answers", "question"

    def __init__(
        self, model: VQAModel, questions: Questions, rows: Sequence[int], config: BenchmarkConfig, root: Path | None
    ) -> None:
        self.model, self.questions, self.rows, self.config, self.root = model, questions, list(rows), config, root
        self.module, self.batch_size = model.module, model.batch_size
        folder = "" if root is None or not self.rows else Path(questions.records[self.rows[0]]["image"]).parent.name
        self.truth = ground_truth_of(root, folder)
        types = set(column(questions.records, "question_type").take(self.rows).to_pylist()) if self.rows else set()
        self.strata = ("answer_type", "question_type") if len(types) <= FEW_TYPES else ("answer_type",)
        last = "probability/srg" if config.removal else "mass"
        self.order = tuple(f"{modality}/{last}" for modality in MODALITIES)
        self.published = published.ANSWERS if config.removal else None
        self.facts = {"model": model.description, "data": str(root or "a hub data set"), "protocol": config.protocol}

    def __len__(self) -> int:
        return len(self.rows)

    def key(self) -> dict[str, Any]:
        ids = self.questions.records.select_columns(["question_id"])[self.rows]["question_id"]
        return {"task": self.name, "model": weights_fingerprint(self.module), "questions": ids}

    def protocols(self) -> dict[str, Protocol]:
        return (
            {modality: self.model.protocol(self.config.protocol, modality) for modality in MODALITIES}
            if self.config.removal
            else {}
        )

    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        return self.model.parameter_groups

    def batch(self, rows: Sequence[int]) -> Batch:
        place = {self.rows[row]: row for row in rows}
        prepared = prepare_questions(self.model, self.questions, list(place))
        data_rows = prepared.records["row"]
        records = {**prepared.records, "row": [place[r] for r in data_rows], "data_row": data_rows}
        return Batch(records["question_id"], prepared, records)

    def record(self, batch: Batch, reads: Needs) -> Recorded:
        return self.model.record(batch.inputs.inputs, reads)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        labels = explained.recorded.labels  # type: ignore[attr-defined]
        accuracy, answers = self.model.accuracies(batch.inputs.inputs, labels), self.model.texts(labels)
        return {**batch.records, "predicted": answers, "accuracy": accuracy, "right": [a > 0 for a in accuracy]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        recording, ids = explained.recorded.recording, torch.tensor(batch.ids)
        content = recording.mask & ~recording.special
        truth = self._ground_truth(batch, explained)
        maps, noise = {}, []
        joint, places = list[Tensor](), dict[str, slice]()
        for modality in recording.inputs:
            scores, tokens = explained.scores(modality), recording.modalities[modality]
            start = sum(part.shape[-1] for part in joint)
            places[modality] = slice(start, start + scores.shape[-1])
            joint.append(scores)  # positions are those in the modality, whatever the padding of others
            noise.append(random_relevance(ids.to(scores.device), scores.shape[-1], range(self.config.random_seeds)))
            if modality in MODALITIES:
                scorers = self._removal(batch, explained, modality, content[:, tokens], recording.mask[:, tokens])
                if modality in truth:
                    scorers.append(location(truth[modality], content[:, tokens]))
                maps[modality] = Maps(scores, ids, scorers)
        share = share_of(places["image"], recording.content, SHARE)
        return {**maps, "": Maps(torch.cat(joint, dim=-1), ids, [share], random=torch.cat(noise, dim=-1))}

    def columns(self) -> list[Column]:
        printed = [f"{m}/{f}/srg" for f in FIGURES for m in MODALITIES] + [
            f"{m}/accuracy/{d}" for m in MODALITIES for d in ("positive", "negative")
        ]
        columns = [c for m in MODALITIES for c in removal_columns(m, m, FIGURES, printed)]
        columns.sort(key=lambda c: (not c.key.endswith("srg"), "accuracy" in c.key))
        for modality, what in MODALITIES.items():
            columns += location_columns(modality, what, f"the {what} that decide")
        share = "share of the positive relevance that is on the image; the rest is on the words"
        return [*columns, Column(SHARE, "on image", "modality share", None, share)]

    def pictures(self, batch: Batch, explained: Explained) -> Iterator[tuple[Figure, str]]:
        columns = self.samples(batch, explained)
        words = explained.recorded.words  # type: ignore[attr-defined]
        shown = [relevance.with_words(words) for relevance in explained.shown.values()]
        for i, row in enumerate(columns["data_row"] if shown else []):
            caption = f"{columns['question'][i]} {columns['predicted'][i]} (right: {columns['answer'][i]})"
            image = load_image(self.questions.source(row))
            yield compare([r.rows([i]) for r in shown], [image], self.model.geometry, [caption]), caption

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        words = explained.recorded.words  # type: ignore[attr-defined]
        shown = {name: self._explanation(r.with_words(words), place, batch) for name, r in explained.shown.items()}
        truth = self._ground_truth(batch, explained)
        if truth and shown:
            frame = next(iter(explained.shown.values())).with_words(words)
            shown[GROUND_TRUTH] = self._explanation(with_scores(frame, truth), place, batch)
        return shown

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        try:
            image = load_image(self.questions.source(record["data_row"]))
        except BadImage:
            return None
        return Sample(
            id=str(record["question_id"]),
            image=png(image),
            question=record["question"],
            answer=record["answer"],
            prediction=record["predicted"],
            right=record["right"],
            answer_type=record["answer_type"],
            explanations=explanations,
            window=self.model.geometry((image.height, image.width)).shares(),
        )

    def _removal(
        self, batch: Batch, explained: Explained, modality: str, content: Tensor, mask: Tensor
    ) -> list[Scorer]:
        if not self.config.removal:
            return []
        protocol = self.protocols()[modality]
        predict = self.model.predictor(batch.inputs.inputs, explained.recorded, protocol)  # type: ignore[arg-type]
        counted = explained.progress.removals(predict)
        return [removal(counted, protocol, content, mask, torch.tensor(batch.ids), self.config.removal_batch)]

    def _ground_truth(self, batch: Batch, explained: Explained) -> dict[str, Tensor]:
        """[B, tokens] by modality; nothing where the data has no ground truth."""
        if self.truth is None:
            return {}
        recorded = explained.recorded
        frame = explain_recording(recorded.recording, RANDOM, recorded.target).with_words(recorded.words)  # type: ignore[attr-defined]
        return self.model.ground_truth(self.truth, batch.inputs, frame)

    def _explanation(self, relevance: Relevance, place: int, batch: Batch) -> Explanation:
        return answer_explanation(self.model, relevance, batch.inputs.inputs, place)


def answer_explanation(model: VQAModel, relevance: Relevance, inputs: Any, place: int) -> Explanation:
    """Returns what the report shows of one question, 0 where relevance is undefined.

    Args:
        model: that answers.
        relevance: of a batch, with its words.
        inputs: of the batch, as the model takes them.
        place: of the question in it.
    """
    share = relevance.shares().get("image")
    image = None if share is None or not share[place].isfinite() else float(share[place])
    words = tuple((word, finite(score)) for word, score in relevance.by_word("text")[place])
    patches = model.patches(relevance, inputs)[place].nan_to_num().tolist()
    return Explanation(tuple(map(tuple, patches)), words, image)


def with_scores(frame: Relevance, scores: Mapping[str, Tensor]) -> Relevance:
    """Returns relevance of other scores on the same tokens."""
    return frame.with_scores({name: t.to(frame.scores[name]) for name, t in scores.items()})


def finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def ground_truth_of(root: Path | None, folder: str) -> Truth | None:
    """Returns what decides the questions about the images of a folder of `root`; None if there is no file of it."""
    there = root is not None and (root / "annotations" / f"shapes_truth_{folder}.json").is_file()
    return Truth(root, folder) if root is not None and there else None


def choose(images: np.ndarray, count: int | None, seed: int) -> list[int]:
    """Returns random rows, of as many different images as there are: questions of one image are no independent samples.

    Args:
        images: [rows], the image of each row.
        count: how many rows; None for all.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    first = np.sort(np.unique(images[order], return_index=True)[1])
    others = np.setdiff1d(np.arange(len(order)), first)
    return sorted(order[np.concatenate([first, others])[:count]].tolist())
