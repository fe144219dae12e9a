"""Which patches belong to which words, on Shapes: `python -m benchmarks.pairs --root data/shapes --samples 100`.

For each method of pairs: how much of a word's strongest patch is of the objects that the word names (`pointing`), and how fast
an answer's probability falls and rises with words and patches in the order of their pairs (second-order deletion and insertion).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor

from clipmapper.benchmark.tasks.answers import choose
from clipmapper.config import DataConfig, ModelSource
from clipmapper.data.files import column
from clipmapper.evaluation.answers import load_questions
from clipmapper.explain.ground_truth import word_regions
from clipmapper.explain.models.base import Recorded, VQAModel, prepare_questions
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.metrics.caption_truth import scenes_of
from clipmapper.models.clip_mapper import CLIPMapper
from xai.explainers.algebra import readout_scores, shared_scores
from xai.explainers.banzhaf import banzhaf
from xai.explainers.fixlip import fixlip
from xai.explainers.interaction import interaction
from xai.explainers.wra import wra
from xai.games.game import game_of
from xai.metrics.pairs import pair_order, pointing
from xai.metrics.perturbation import Perturbed, perturb
from xai.metrics.protocols import Protocol, area
from xai.metrics.ranking import random_relevance
from xai.metrics.statistics import mean_interval

BATCH = 25
Maps = Callable[[Recorded], Tensor]  # of pairs, [B, T, T], words in the rows, patches in the columns


def maps(budgets: list[int]) -> dict[str, Maps]:
    """The methods of pairs by name."""

    def of(method: Callable[..., Tensor], recorded: Recorded, **options: Any) -> Tensor:
        return method(recorded.recording, recorded.target, **options).double()

    found: dict[str, Maps] = {
        "interaction": partial(of, interaction),
        "interaction, transposed": lambda recorded: of(interaction, recorded).mT,
        "interaction, mutual": partial(of, interaction, mutual=True),
    }
    return found | {f"fixlip, {budget} runs": partial(of, fixlip, budget=budget) for budget in budgets}


def orders(found: dict[str, Tensor], recorded: Recorded, budgets: list[int]) -> dict[str, Tensor]:
    """Scores [B, T] whose order is that of removal: of pairs, and of single tokens beside them."""
    recording, target = recorded.recording, recorded.target
    content = recording.mask & ~recording.special
    words, patches = (recording.modalities[name] for name in ("text", "image"))
    ordered = {}
    for name, values in found.items():
        if not name.startswith("fixlip"):  # no scores of single tokens: pairs of a word and a patch alone
            across = torch.zeros_like(values)
            across[:, words, patches] = values[:, words, patches]
            values = across + across.mT
        ordered[f"pairs of {name}"] = pair_order(values, content)
        if name.startswith("fixlip"):
            ordered[f"tokens of {name}"] = shared_scores(values)
    for budget in budgets:
        ordered[f"banzhaf, together, {budget} runs"] = banzhaf(recording, target, budget=budget, together=True)
    ordered["wra"] = readout_scores(recording, wra(recording, target), target).double()
    return ordered


def measured(
    model: VQAModel, rows: list[int], questions: Any, root: Path, budgets: list[int]
) -> dict[str, list[Tensor]]:
    """Figures of each question by "metric: method", a tensor a batch."""
    protocol = Protocol("both_ends", "attention_mask" if not isinstance(model, MapperModel) else "drop", "both")
    figures: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), BATCH):
        prepared = prepare_questions(model, questions, rows[start : start + BATCH])
        recorded = model.record(prepared.inputs, None)
        recording, ids = recorded.recording, torch.tensor(prepared.records["question_id"])
        scenes = scenes_of(root, prepared.records["image_id"])
        if scenes is None:
            raise ValueError(f"{root} is not Shapes, whose words name known objects")
        found = {name: method(recorded) for name, method in maps(budgets).items()}
        image, text = recording.modalities["image"], recording.modalities["text"]
        patches = ~recording.special[:, image]
        regions = word_regions(recorded.words, scenes, recording.grids["image"])
        truth = torch.zeros(len(ids), regions.shape[1], patches.shape[1])
        truth[patches[:, None].expand(truth.shape)] = regions.flatten()
        named_words = truth.sum(dim=-1) > 0
        pointed = {
            name: pointing(values[:, text][..., image], truth.double(), patches) for name, values in found.items()
        }
        pointed["chance"] = (truth.sum(dim=-1) / patches.sum(dim=-1)[:, None]).where(named_words, torch.nan)
        for name, hits in pointed.items():
            figures.setdefault(f"pointing: {name}", []).append(hits.nanmean(dim=1))
        ordered = orders(found, recorded, budgets)
        content = recording.mask & ~recording.special
        noise = random_relevance(ids, content.shape[1], range(3))
        relevance = torch.cat([torch.stack(list(ordered.values())), noise.double()])
        game = game_of(recording, recorded.target)

        def predict(batch: Perturbed, game: Any = game) -> dict[str, Tensor]:
            return {"probability": game(batch.keep, batch.rows)[:, 0]}

        curves = perturb(relevance, content, ids, predict, protocol, recording.mask)["probability"]
        areas = area(curves, protocol.shares)  # [methods, directions, B]
        for number, name in enumerate([*ordered, *["random"] * len(noise)]):
            deletion, insertion = areas[number]
            for metric, values in (("deletion", deletion), ("insertion", insertion), ("SRG", insertion - deletion)):
                if name != "random":
                    figures.setdefault(f"{metric}: {name}", []).append(values)
        for metric, values in (("deletion", areas[-3:, 0]), ("insertion", areas[-3:, 1])):
            figures.setdefault(f"{metric}: random", []).append(values.mean(dim=0))
        print(f"{start + len(ids)} of {len(rows)} questions, {game.runs} runs in the last batch", flush=True)
    return figures


def pairs(
    root: Path = Path("data/shapes"),
    model: str = "shapes-b-vqa",
    samples: int = 100,
    seed: int = 0,
    budgets: list[int] | None = None,
) -> None:
    """Prints each figure in percent with its 95 % interval over questions.

    Args:
        root: folder of Shapes.
        model: what answers.
        samples: questions.
        seed: of their choice.
        budgets: of fixlip, in runs of the model.
    """
    made: Any = load_model(ModelSource(model))
    made = MapperModel(made) if isinstance(made, CLIPMapper) else made
    questions = load_questions(made, DataConfig(root=root), "val")
    usable = questions.annotated()
    picked = [usable[i] for i in choose(column(questions.records, "image_id").to_numpy()[usable], samples, seed)]
    for name, parts in measured(made, picked, questions, root, budgets or [512]).items():
        found = mean_interval(np.asarray(torch.cat(parts)))
        ends = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
        print(f"{name}: {100 * found.mean:.1f} {ends} of {found.samples} questions")


if __name__ == "__main__":
    auto_cli(pairs)
