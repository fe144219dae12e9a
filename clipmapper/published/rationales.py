"""The words that a text classifier's explanation marks, against those that people marked (TransAtt §4, ERASER)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from clipmapper.errors import unknown
from clipmapper.published.explained import Methods, floor, mean_floor, methods_of, recorded, spread
from clipmapper.published.results import Found, rows, write
from clipmapper.published.settings import Rationales, there
from clipmapper.published.vision import from_transformers, known_adapter, placed
from xai import Adapter, Relevance
from xai.figures.render import compare
from xai.metrics.rationales import TOP, Review, read_eraser, token_f1, word_relevance
from xai.metrics.statistics import mean_interval
from xai.targets import given, predicted

SHOWN = 60  # words of a review in the picture


@dataclass(frozen=True, eq=False)
class Reader:
    """A classifier of texts, and how it takes words."""

    model: nn.Module
    adapter: Adapter
    tokenizer: Any
    labels: dict[str, int]  # the data's classes to the model's
    longest: int  # in tokens

    def encoded(self, reviews: Sequence[Review]) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs, and the word [B, T] that each token is of, -1 for none."""
        words = [review.words for review in reviews]
        found = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.longest, padding=True, return_tensors="pt"
        )
        word_of = [[-1 if word is None else word for word in found.word_ids(i)] for i in range(len(reviews))]
        device = next(self.model.parameters()).device
        return {name: t.to(device) for name, t in found.items()}, torch.tensor(word_of, device=device)


@dataclass(frozen=True)
class Measured:
    f1: Tensor  # [methods, B, k in TOP], random scores last
    predicted: Tensor  # [B]
    words: list[Tensor]  # of each review, relevance [methods, words] without random scores


def run(settings: Rationales) -> None:
    """Measures, and writes the results to `settings.output`."""
    methods = methods_of(settings.methods)
    there(settings.data / f"{settings.split}.jsonl", "data")
    reviews = read_eraser(settings.data, settings.split)
    reader = load_reader(settings, reviews)
    chosen, parts = spread(len(reviews), settings.samples), []
    for start in tqdm(range(0, len(chosen), settings.batch_size), desc="rationales", unit="batch"):
        some = chosen[start : start + settings.batch_size]
        parts.append(measure(reader, [reviews[i] for i in some], some, methods, settings.explained == "predicted"))
    used = [reviews[i] for i in chosen]
    words = [relevance for part in parts for relevance in part.words]
    picture = drawn(used[: settings.pictures], words, methods)
    write(summed_up(parts, used, reader, methods, settings, picture), methods, reader.model, settings)


def summed_up(
    parts: Sequence[Measured],
    reviews: Sequence[Review],
    reader: Reader,
    methods: Methods,
    settings: Rationales,
    picture: Figure | None,
) -> Found:
    """F1 with its intervals, and the rows of the samples."""
    f1 = torch.cat([part.f1 for part in parts], dim=1).numpy()
    answers = torch.cat([part.predicted for part in parts]).tolist()
    labels = [reader.labels[review.label] for review in reviews]
    right = [answer == label for answer, label in zip(answers, labels, strict=True)]
    values = {f"f1@{k}": f1[..., i] for i, k in enumerate(TOP)}
    samples: dict[str, list[Any]] = {
        "review": [review.name for review in reviews],
        "words": [len(review.words) for review in reviews],
        "label": labels,
        "predicted": answers,
    }
    explained = "class of the data" if settings.explained == "label" else "predicted class"
    return Found(
        "rationales",
        {name: mean_interval(v) for name, v in values.items()},
        {"explained": explained, "split": settings.split, "top": list(TOP), "word": "the highest of its pieces"},
        rows(methods, samples, values),
        picture,
        {"samples": len(right), "accuracy": sum(right) / len(right)},
    )


def load_reader(settings: Rationales, reviews: Sequence[Review]) -> Reader:
    """Raises ValueError for a model that cannot be explained, or whose classes are not those of the data."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = from_transformers(AutoModelForSequenceClassification, settings.model)
    adapter, tokenizer = known_adapter(model), AutoTokenizer.from_pretrained(settings.model, add_prefix_space=True)
    if not tokenizer.is_fast:
        raise ValueError(f"--model: {settings.model} has a slow tokenizer, which does not say which word a token is of")
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    labels = class_of(sorted({review.label for review in reviews}), settings.classes, names)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    return Reader(placed(model, settings), adapter, tokenizer, labels, longest)


def class_of(wanted: Sequence[str], given_names: str | None, names: Sequence[str]) -> dict[str, int]:
    """The model's class of each of the data's; raises ValueError, naming --classes, for one that it has not."""
    known = [name.strip() for name in given_names.split(",")] if given_names else list(names)
    if len(known) != len(names):
        raise ValueError(f"--classes names {len(known)} classes; the model has {len(names)}: {', '.join(names)}")
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"{unknown('class', name, known)}; give --classes with the data's names in the model's order"
            )
    return {name: known.index(name) for name in wanted}


def measure(
    reader: Reader, reviews: Sequence[Review], ids: Sequence[int], methods: Methods, of_predicted: bool
) -> Measured:
    """F1 of every method."""
    inputs, word_of = reader.encoded(reviews)
    recording = recorded(reader.model, reader.adapter, inputs, methods)
    labels = torch.tensor([reader.labels[review.label] for review in reviews], device=word_of.device)
    scores = methods.scores(recording, predicted() if of_predicted else given(labels), "text")
    longest = max(len(review.words) for review in reviews)
    found, valid = word_relevance(scores, word_of, longest)
    random = floor(torch.tensor(ids, device=found.device), longest)
    truth = torch.stack([torch.cat([r.rationale, torch.zeros(longest - len(r.words)).bool()]) for r in reviews])
    f1 = mean_floor(token_f1(torch.cat([found, random]), truth.to(found.device), valid), methods)
    words = [found[:, b, : len(review.words)].cpu() for b, review in enumerate(reviews)]
    return Measured(f1.cpu(), recording.output.logits.detach().argmax(dim=1).cpu(), words)


def drawn(reviews: Sequence[Review], words: Sequence[Tensor], methods: Methods) -> Figure | None:
    """The words around the first that people marked (in brackets); those beyond the model's length stay white."""
    works = [i for i, name in enumerate(methods.names) if name not in methods.errors]
    if not works or not reviews:
        return None
    starts = [max(0, min((start for start, _ in review.spans), default=0) - SHOWN // 4) for review in reviews]
    texts = [marked(review)[start : start + SHOWN] for review, start in zip(reviews, starts, strict=True)]
    mask = torch.tensor([[i < len(text) for i in range(SHOWN)] for text in texts])
    shown = []
    for i in works:
        scores = torch.zeros(len(texts), SHOWN)
        for row, relevance, start, text in zip(scores, words, starts, texts, strict=False):
            row[: len(text)] = relevance[i, start : start + len(text)]
        one = Relevance({"text": scores}, {"text": mask}, {"text": ~mask}, {}, methods.names[i], {}, None)
        shown.append(one.with_words(texts))
    return compare(shown)


def marked(review: Review) -> list[str]:
    """The words, with brackets around each span that people marked."""
    words = list(review.words)
    for start, end in review.spans:
        if start < end:
            words[start] = "[" + words[start]
            words[end - 1] += "]"
    return words
