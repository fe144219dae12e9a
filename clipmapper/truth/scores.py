"""Relevance of several methods on questions of Shapes, and how much of it falls on what decides."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipmapper.data.shapes.truth import Span, Truth
from clipmapper.data.vqa import Questions
from clipmapper.explain.answers import answer_target, record_answer, words
from clipmapper.models.clip_mapper import CLIPMapper
from xai import Relevance, explain_recording
from xai.explain import lrp_of
from xai.metrics.localisation import chance, mass_accuracy, patch_shares, rank_accuracy
from xai.metrics.ranking import random_relevance

FIGURES = ("region_mass", "region_rank", "words_mass", "words_rank")
SILENT = ("region_silent", "words_silent")  # 1 where a method gives no patch, or no word, positive relevance
BASELINES = ("random", "chance")
RANDOM_SEEDS = range(10)
FINE = 16  # pixels of a patch's side in which the region is drawn
COLUMNS = ("question_id", "image_id", "question_type", "answer_type", "question", "answer")


@dataclass(frozen=True)
class Explained:
    """Questions that one recorded pass explains by several methods; truth [B, tokens] of each modality, 0 to 1."""

    records: dict[str, list[Any]]  # columns
    relevances: dict[str, Relevance]
    truth: dict[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """FIGURES and SILENT of methods on questions, [figure, method, question]; the baselines come last.

    NaN where a question has no truth; a count of 0 or a "no" has no region.
    """

    methods: tuple[str, ...]
    figures: np.ndarray
    records: dict[str, list[Any]]  # columns


def choose(scenes: np.ndarray, count: int, seed: int) -> list[int]:
    """Random rows, as many of different scenes as there are: questions of one scene are not independent samples."""
    order = np.random.default_rng(seed).permutation(len(scenes))
    first = np.sort(np.unique(scenes[order], return_index=True)[1])
    others = np.setdiff1d(np.arange(len(order)), first)
    return sorted(order[np.concatenate([first, others])[:count]].tolist())


def score_all(
    model: CLIPMapper, questions: Questions, truth: Truth, rows: list[int], methods: Sequence[str], batch_size: int
) -> Measured:
    """All methods on all rows, a batch at a time."""
    parts: list[np.ndarray] = []
    records: defaultdict[str, list[Any]] = defaultdict(list)
    for start in tqdm(range(0, len(rows), batch_size), desc="explaining", unit="batch"):
        explained = explain_rows(model, questions, truth, rows[start : start + batch_size], methods)
        parts.append(score(explained))
        for name, values in explained.records.items():
            records[name] += values
    return Measured((*methods, *BASELINES), np.concatenate(parts, axis=-1), dict(records))


@torch.no_grad()
def explain_rows(
    model: CLIPMapper, questions: Questions, truth: Truth, rows: list[int], methods: Sequence[str]
) -> Explained:
    """The model's answers to some questions by every method, from one recorded pass."""
    batch = questions[rows]
    recording = record_answer(model, batch["image"], batch["ids"], batch["mask"], lrp_of(*methods))
    target, strings = answer_target(model, recording), words(model.clip, batch["ids"], batch["mask"])
    relevances = {name: explain_recording(recording, name, target).with_words(strings) for name in methods}
    taken, labels = batch["row"].tolist(), recording.output.argmax(dim=1).cpu()
    records = questions.records.select_columns(list(COLUMNS))[taken] | {
        "row": taken,
        "predicted": [model.answers[label] for label in labels],
        "accuracy": batch["scores"].gather(1, labels[:, None])[:, 0].tolist(),
    }
    patches = ~recording.special[:, recording.modalities["image"]]
    return Explained(records, relevances, deciding(truth, records, patches, strings, model.clip.grid))


def deciding(
    truth: Truth, records: Mapping[str, Any], patches: Tensor, strings: Sequence[Sequence[str]], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """How much of each token decides the answer, [B, tokens] by modality, 0 to 1; `patches` [B, tokens] of the image."""
    region = regions(truth, records["question_id"], grid)
    spoken = zip(records["question_id"], records["question"], strings, strict=True)
    text = [deciding_tokens(truth.words(key), question, tokens) for key, question, tokens in spoken]
    image = torch.zeros(patches.shape).masked_scatter(patches.cpu(), region)
    return {"image": image, "text": torch.stack(text)}


def regions(truth: Truth, ids: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Share of each patch that deciding objects cover, [B, rows, columns]; CLIP's preprocessing keeps a square whole."""
    size = (FINE * grid[0], FINE * grid[1])
    return patch_shares(torch.from_numpy(np.stack([truth.region(key, size) for key in ids])), grid)


def deciding_tokens(spans: Sequence[Span], question: str, tokens: Sequence[str]) -> Tensor:
    """1 at the tokens [T] that share characters with a span, else 0. Start, end and padding stand for no characters."""
    found, at, text = torch.zeros(len(tokens)), 0, question.lower()
    for i, token in enumerate(tokens):
        piece = token.strip()
        if not piece or piece in ("<start_of_text>", "<end_of_text>"):
            continue
        first = text.index(piece, at)
        at = first + len(piece)
        found[i] = any(first < stop and start < at for start, stop in spans)
    return found


def score(explained: Explained) -> np.ndarray:
    """FIGURES and SILENT of all methods, random scores (mean over seeds) and equal ones, [figure, method, question].

    A method that is silent gets the mass that equal scores get, as it does by rank, so that all methods are compared on
    the same questions.
    """
    found, silent, ids = [], [], torch.tensor(explained.records["question_id"])
    for modality, truth in explained.truth.items():
        relevances = list(explained.relevances.values())
        valid = relevances[0].content(modality).cpu()
        scores = torch.stack([relevance.scores[modality].cpu().double() for relevance in relevances])
        nothing = (scores.clamp(min=0) * valid).sum(dim=-1) == 0
        equal = chance(truth, valid).double()[None]
        noise = random_relevance(ids, truth.shape[1], RANDOM_SEEDS)
        for figure in (mass_accuracy, rank_accuracy):
            random = figure(noise, truth, valid).mean(dim=0, keepdim=True)
            found.append(torch.cat([figure(scores, truth, valid).where(~nothing, equal), random, equal]))
        silent.append(torch.cat([nothing.double(), torch.zeros(len(BASELINES), len(ids))]))
    return torch.stack([*found, *silent]).numpy()
