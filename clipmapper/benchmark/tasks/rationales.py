"""The words that a text classifier's explanation marks, against those that people marked (TransAtt §4, ERASER)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Pass, Records, Task
from clipmapper.benchmark.tasks.images import GROUND_TRUTH
from clipmapper.benchmark.tasks.source import PaperSettings, required, spread
from clipmapper.benchmark.tasks.vision import known_adapter, placed
from clipmapper.errors import unknown
from clipmapper.images import png
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.models.pretrained import from_transformers
from xai import Adapter, given, predicted
from xai.metrics.rationales import TOP, Review, read_eraser, token_f1, word_relevance
from xai.recording.reads import Needs
from xai.recording.record import record
from xai.report.data import Column, Explanation, Sample

SHOWN = 120  # words of a review in the report


@dataclass(frozen=True, kw_only=True)
class RationalesSettings(PaperSettings):
    """The most relevant words against those that people marked (TransAtt fig. 4).

    Attributes:
        data: folder of an ERASER data set with one document an entry, such as movie reviews.
        split: the file of entries, without .jsonl.
        classes: the data's class names in the model's order, commas between; null for the model's own label names.
        explained: the class that is explained: that of the data, or the one the model predicts.
    """

    data: Path
    split: str = "test"
    classes: str | None = None
    explained: Literal["label", "predicted"] = "label"


@dataclass(frozen=True, eq=False)
class Reader:
    """A classifier of texts, and how it takes words.

    Attributes:
        labels: the data's classes to the model's.
        longest: in tokens.
    """

    model: nn.Module
    adapter: Adapter
    tokenizer: Any
    labels: dict[str, int]
    longest: int

    def encoded(self, reviews: Sequence[Review]) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the model's inputs, and the word [B, T] that each token is of, -1 for none."""
        words = [review.words for review in reviews]
        batch = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.longest, padding=True, return_tensors="pt"
        )
        word_of = [[-1 if word is None else word for word in batch.word_ids(i)] for i in range(len(reviews))]
        device = next(self.model.parameters()).device
        return {name: t.to(device) for name, t in batch.items()}, torch.tensor(word_of, device=device)


class RationalesTask(Task):
    """Texts with the words that people marked as reasons for their class.

    Args:
        settings: model and data.
        config: the settings of the benchmark.

    Raises:
        ValueError, MissingData: the model or a file cannot be used; names it.
    """

    name, unit, batch_size = "rationales", "review", 8
    order = ("f1@20",)

    def __init__(self, settings: RationalesSettings, config: BenchmarkConfig) -> None:
        self.settings, self.config = settings, config
        required(settings.data / f"{settings.split}.jsonl", "data")
        if not (settings.data / "docs.jsonl").is_file():
            required(settings.data / "docs", "data", folder=True)
        self.reviews = read_eraser(settings.data, settings.split)
        self.reader = load_reader(settings, self.reviews)
        self.module = self.reader.model
        self.rows = spread(len(self.reviews), config.samples)
        explained = "class of the data" if settings.explained == "label" else "predicted class"
        self.facts = {"model": settings.model, "explained": explained, "split": settings.split}

    def __len__(self) -> int:
        return len(self.rows)

    def key(self) -> dict[str, Any]:
        weights = weights_fingerprint(self.module)
        return {
            "task": self.name,
            **self.settings.key(),
            "weights": weights,
            "reviews": [self.reviews[row].name for row in self.rows],
        }

    def batch(self, rows: Sequence[int]) -> Batch:
        reviews = [self.reviews[self.rows[row]] for row in rows]
        inputs, word_of = self.reader.encoded(reviews)
        records: Records = {
            "row": list(rows),
            "name": [review.name for review in reviews],
            "words": [len(review.words) for review in reviews],
            "label": [review.label for review in reviews],
        }
        return Batch([self.rows[row] for row in rows], (inputs, word_of, reviews), records)

    def record(self, batch: Batch, reads: Needs) -> Pass:
        inputs, word_of, reviews = batch.inputs
        with record(self.module, self.reader.adapter, reads) as recorder:
            self.module(**inputs)
        labels = torch.tensor([self.reader.labels[review.label] for review in reviews], device=word_of.device)
        return Pass(recorder.recording, predicted() if self.settings.explained == "predicted" else given(labels))

    def samples(self, batch: Batch, explained: Explained) -> Records:
        likeliest = explained.recorded.recording.output.logits.detach().argmax(dim=1).tolist()
        right = [self.reader.labels[label] == one for label, one in zip(batch.records["label"], likeliest, strict=True)]
        return {**batch.records, "predicted": likeliest, "right": right, "accuracy": [float(r) for r in right]}

    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        _, word_of, reviews = batch.inputs
        longest = max(len(review.words) for review in reviews)
        relevance, valid = word_relevance(explained.scores("text"), word_of, longest)
        padded = [torch.cat([r.rationale, torch.zeros(longest - len(r.words)).bool()]) for r in reviews]
        marked = torch.stack(padded).to(relevance.device)

        def f1(scores: Tensor) -> dict[str, Tensor]:
            by_k = token_f1(scores, marked, valid)
            return {f"f1@{k}": by_k[..., i] for i, k in enumerate(TOP)}

        return {"": Maps(relevance, torch.tensor(batch.ids), [f1])}

    def columns(self) -> list[Column]:
        text = "token F1 of the {} most relevant words against the marked ones; a word counts as its highest piece"
        return [Column(f"f1@{k}", f"F1@{k}", "rationales", "higher", text.format(k), k == 20) for k in TOP]

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        _, word_of, reviews = batch.inputs
        review, longest = reviews[place], max(len(one.words) for one in reviews)
        start = max(0, min((first for first, _ in review.spans), default=0) - SHOWN // 4)
        words = review.words[start : start + SHOWN]
        shown = {}
        for name, relevance in explained.shown.items():
            scores, _ = word_relevance(relevance.scores["text"].float(), word_of, longest)
            values = scores[place, start : start + len(words)].nan_to_num().tolist()
            shown[name] = Explanation(((0.0,),), tuple(zip(words, values, strict=True)))
        marked = review.rationale[start : start + SHOWN].float().tolist()
        return {**shown, GROUND_TRUTH: Explanation(((0.0,),), tuple(zip(words, marked, strict=True)))}

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        blank, name = png(Image.new("RGB", (8, 8), "white")), str(record["name"])
        return Sample(name, blank, name, record["label"], str(record["predicted"]), record["right"], "", explanations)


def load_reader(settings: RationalesSettings, reviews: Sequence[Review]) -> Reader:
    """Loads a classifier; raises ValueError for one that cannot be explained, or whose classes are not the data's."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = from_transformers(AutoModelForSequenceClassification, settings.model, "classification of texts")
    adapter, tokenizer = known_adapter(model), AutoTokenizer.from_pretrained(settings.model, add_prefix_space=True)
    if not tokenizer.is_fast:
        raise ValueError(f"--model: {settings.model} has a slow tokenizer, which does not say which word a token is of")
    if tokenizer.pad_token is None:
        remedy = "set tokenizer.pad_token and model.config.pad_token_id as in training, and save both there"
        raise ValueError(f"--model: {settings.model} has a tokenizer without a padding token; {remedy}")
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    labels = class_of(sorted({review.label for review in reviews}), settings.classes, names)
    return Reader(placed(model, settings), adapter, tokenizer, labels, longest_text(model, tokenizer))


def longest_text(model: Any, tokenizer: Any) -> int:
    """Returns how many tokens a model takes: of positions that begin after the padding's, as RoBERTa's, so many fewer."""
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    tables = [
        m for name, m in model.named_modules() if name.endswith("position_embeddings") and isinstance(m, nn.Embedding)
    ]
    if tables and tables[0].padding_idx is not None:
        positions = tables[0].num_embeddings - tables[0].padding_idx - 1
    return min(tokenizer.model_max_length, positions)


def class_of(wanted: Sequence[str], names_of_data: str | None, names: Sequence[str]) -> dict[str, int]:
    """Returns the model's class of each of the data's; raises ValueError, naming --classes, for one that it has not once."""
    known = [name.strip() for name in names_of_data.split(",")] if names_of_data else list(names)
    if len(known) != len(names):
        raise ValueError(f"--classes names {len(known)} classes; the model has {len(names)}: {', '.join(names)}")
    for name in wanted:
        if known.count(name) != 1:
            error = f"several classes are called {name!r}" if name in known else unknown("class", name, known)
            raise ValueError(f"{error}; give --classes with the data's names in the model's order")
    return {name: known.index(name) for name in wanted}
