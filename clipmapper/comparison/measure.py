"""Figures of explained questions: perturbation curves, truth scores where the data has a truth, modality share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmapper.comparison.explained import RANDOM, Explained
from clipmapper.data.shapes.truth import Truth
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.mapper import vqa_model
from clipmapper.models.clip_mapper import CLIPMapper
from xai.metrics.localisation import mass_accuracy, modality_share, rank_accuracy
from xai.metrics.perturbation import perturb
from xai.metrics.protocols import named
from xai.metrics.ranking import mean_floor, random_relevance

MODALITIES = ("image", "text")
FIGURES = ("accuracy", "probability")
RANDOM_SEEDS = range(5)
SHARE = "image_share"
TRUTHS = tuple(f"truth/{modality}_{name}" for modality in MODALITIES for name in ("mass", "rank"))
ON_CPU, ON_GPU = 64, 1024  # perturbed inputs at once; on a CPU larger batches do not fit its caches and take longer


@dataclass(frozen=True)
class Measured:
    """Figures of methods on questions; NaN where undefined. RANDOM is the mean over seeds and comes last."""

    methods: tuple[str, ...]
    records: dict[str, list[Any]]  # columns
    curves: dict[str, np.ndarray]  # by "modality/figure": [methods, directions, questions, steps]
    figures: dict[str, np.ndarray]  # [methods, questions]
    errors: dict[str, str]  # of methods that raised


def measure(model: CLIPMapper | VQAModel, explained: Explained, protocol: str, truth: Truth | None) -> Measured:
    """All figures; each distinct perturbed input is run once for all methods."""
    curves = {
        f"{modality}/{figure}": by_method.float().cpu().numpy()
        for modality in MODALITIES
        for figure, by_method in perturbed(model, explained, protocol, modality).items()
    }
    figures = {SHARE: image_share(explained), **(truth_scores(model, explained, truth) if truth else {})}
    plain = {name: values.float().cpu().numpy() for name, values in figures.items()}
    return Measured(tuple(explained.relevances), explained.asked.records, curves, plain, explained.errors)


def perturbed(model: CLIPMapper | VQAModel, explained: Explained, protocol: str, modality: str) -> dict[str, Tensor]:
    """Curves [methods, directions, B, steps] of each figure."""
    asked, chosen = explained.asked, named(protocol, modality)
    frame = explained.relevances[RANDOM]
    predict = vqa_model(model).predictor(asked.inputs, explained.target, chosen)
    every = perturb(
        _with_floor(explained, modality),
        frame.content(modality),
        asked.ids,
        predict,
        chosen,
        frame.mask[modality],
        batch_size=ON_CPU if asked.ids.device.type == "cpu" else ON_GPU,
    )
    return {name: _mean_floor(explained, curves) for name, curves in every.items()}


def image_share(explained: Explained) -> Tensor:
    """[methods, B]: how much of the positive relevance is on the image; the rest is on the words."""
    frame = explained.relevances[RANDOM]
    scores = {modality: _with_floor(explained, modality) for modality in MODALITIES}
    shares = modality_share(scores, {modality: frame.content(modality) for modality in MODALITIES})
    return _mean_floor(explained, shares["image"])


def truth_scores(model: CLIPMapper | VQAModel, explained: Explained, truth: Truth) -> dict[str, Tensor]:
    """[methods, B] each: mass and rank accuracy in the deciding region and on the deciding words."""
    frame, found = explained.relevances[RANDOM], {}
    for modality, share in vqa_model(model).deciding(truth, explained.asked, frame).items():
        relevance, valid = _with_floor(explained, modality).double(), frame.content(modality)
        for name, score in (("mass", mass_accuracy), ("rank", rank_accuracy)):
            values = score(relevance, share.to(relevance.device), valid)
            found[f"truth/{modality}_{name}"] = _mean_floor(explained, values)
    return found


def truth_of(root: Path | None) -> Truth | None:
    """What decides the questions of `root`, or None if there is no file of it."""
    there = root is not None and (root / "annotations" / "shapes_truth_val2014.json").is_file()
    return Truth(root) if root is not None and there else None


def joined(parts: Sequence[Measured]) -> Measured:
    """The questions of all parts, in their order; a method's error is that of its first part with one."""
    first = parts[0]
    return Measured(
        first.methods,
        {name: [value for part in parts for value in part.records[name]] for name in first.records},
        {key: np.concatenate([part.curves[key] for part in parts], axis=2) for key in first.curves},
        {key: np.concatenate([part.figures[key] for part in parts], axis=1) for key in first.figures},
        {name: error for part in reversed(parts) for name, error in part.errors.items()},
    )


def _with_floor(explained: Explained, modality: str) -> Tensor:
    """Scores [methods + seeds, B, tokens]: those of all methods, then random ones in place of RANDOM's."""
    scores = [r.scores[modality].detach().float() for name, r in explained.relevances.items() if name != RANDOM]
    noise = random_relevance(explained.asked.ids, explained.relevances[RANDOM].scores[modality].shape[1], RANDOM_SEEDS)
    return torch.cat([torch.stack(scores), noise]) if scores else noise


def _mean_floor(explained: Explained, values: Tensor) -> Tensor:
    """[methods + seeds, ...] to [methods, ...] with the mean over the seeds last."""
    return mean_floor(values, len(explained.relevances) - 1)
