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
from clipmapper.explain.answers import words
from clipmapper.explain.ground_truth import word_regions
from clipmapper.explain.models.base import Recorded, VQAModel, prepare_questions
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.images import load_image
from clipmapper.metrics.caption_truth import scenes_of
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from xai import adapter_for, record, similarity
from xai.explainers.algebra import readout_scores, shared_scores
from xai.explainers.banzhaf import banzhaf
from xai.explainers.exclip import exclip
from xai.explainers.fixlip import fixlip
from xai.explainers.interaction import interaction
from xai.explainers.wra import wra
from xai.files import read_json
from xai.games.game import game_of
from xai.metrics.pairs import pair_order, pointing
from xai.metrics.perturbation import Perturbed, perturb
from xai.metrics.protocols import Protocol, area
from xai.metrics.ranking import random_relevance
from xai.metrics.statistics import mean_interval
from xai.recording.reads import EVERYTHING

BATCH = 25
CAPTIONS = "annotations/captions_val2014.json"
Maps = Callable[[Recorded], Tensor]  # of pairs, [B, T, T], words in the rows, patches in the columns


def of_method(method: Callable[..., Tensor], recorded: Recorded, **options: Any) -> Tensor:
    return method(recorded.recording, recorded.target, **options).double()


def maps(budgets: list[int]) -> dict[str, Maps]:
    """The methods of pairs by name."""

    found: dict[str, Maps] = {
        "interaction": partial(of_method, interaction),
        "interaction, transposed": lambda recorded: of_method(interaction, recorded).mT,
        "interaction, mutual": partial(of_method, interaction, mutual=True),
    }
    return found | {f"fixlip, {budget} runs": partial(of_method, fixlip, budget=budget) for budget in budgets}


def orders(found: dict[str, Tensor], recorded: Recorded, budgets: list[int]) -> dict[str, Tensor]:
    """Scores [B, T] whose order is that of removal: of pairs, and of single tokens beside them."""
    recording, target = recorded.recording, recorded.target
    content = recording.mask & ~recording.special
    text, image = (recording.modalities[name] for name in ("text", "image"))
    ordered = {}
    for name, values in found.items():
        if not name.startswith("fixlip"):  # no scores of single tokens: pairs of a word and a patch alone
            across = torch.zeros_like(values)
            across[:, text, image] = values[:, text, image]
            values = across + across.mT
        ordered[f"pairs of {name}"] = pair_order(values, content)
        if name.startswith("fixlip"):
            ordered[f"tokens of {name}"] = shared_scores(values)
    for budget in budgets:
        ordered[f"banzhaf, together, {budget} runs"] = banzhaf(recording, target, budget=budget, together=True)
    ordered["wra"] = readout_scores(recording, wra(recording, target), target).double()
    return ordered


def pointing_of_clip(root: Path, samples: int, seed: int, budgets: list[int]) -> dict[str, list[Tensor]]:
    """Pointing of the CLIP of Shapes in a caption of each of some pictures, by the similarity of both."""
    clip, folder = FrozenCLIP(SHAPES_CLIP, "shapes"), root / "val2014"
    captions = {
        entry["image_id"]: entry["caption"] for entry in read_json(root / CAPTIONS, "write Shapes anew")["annotations"]
    }
    picked = np.random.default_rng(seed).permutation(sorted(captions))[:samples].tolist()
    figures: dict[str, list[Tensor]] = {}
    for start in range(0, len(picked), BATCH):
        images = picked[start : start + BATCH]
        pixels = torch.stack([clip.pixels(load_image(next(folder.glob(f"*{image:012d}*")))) for image in images])
        ids = clip.tokenizer(
            [captions[image] for image in images]
        )  # as open_clip's model takes them, all of one length
        mask = torch.arange(ids.shape[1]) <= ids.argmax(dim=1, keepdim=True)
        with record(clip.model, adapter_for(clip.model)) as recorder:
            clip.model(pixels, ids)
        recorded = Recorded(recorder.recording, similarity(), None, words(clip, ids, mask))
        found = maps(budgets) | {"exclip, 4 steps": partial(of_method, exclip, steps=4)}
        _point(figures, {name: method(recorded) for name, method in found.items()}, recorded, root, images)
    return figures


def measured(
    model: VQAModel, rows: list[int], questions: Any, root: Path, budgets: list[int]
) -> dict[str, list[Tensor]]:
    """Figures of each question by "metric: method", a tensor a batch."""
    protocol = Protocol("both_ends", "attention_mask" if not isinstance(model, MapperModel) else "drop", "both")
    figures: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), BATCH):
        prepared = prepare_questions(model, questions, rows[start : start + BATCH])
        recorded = model.record(prepared.inputs, EVERYTHING)
        recording, ids = recorded.recording, torch.tensor(prepared.records["question_id"])
        found = {name: method(recorded) for name, method in maps(budgets).items()}
        _point(figures, found, recorded, root, prepared.records["image_id"])
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


def _point(
    figures: dict[str, list[Tensor]], found: dict[str, Tensor], recorded: Recorded, root: Path, images: list[int]
) -> None:
    """Adds the pointing of a batch, and what equal pairs have."""
    recording, scenes = recorded.recording, scenes_of(root, images)
    if scenes is None:
        raise ValueError(f"{root} is not Shapes, whose words name known objects")
    image, text = recording.modalities["image"], recording.modalities["text"]
    patches = ~recording.special[:, image]
    regions = word_regions(recorded.words, scenes, recording.grids["image"])
    truth = torch.zeros(len(images), regions.shape[1], patches.shape[1])
    truth[patches[:, None].expand(truth.shape)] = regions.flatten()
    pointed = {name: pointing(values[:, text][..., image], truth.double(), patches) for name, values in found.items()}
    row = readout_scores(recording, wra(recording, recorded.target), recorded.target)[:, None, image]
    pointed["wra, one map for all words"] = pointing(row.expand(truth.shape).double(), truth.double(), patches)
    pointed["chance"] = pointing(torch.zeros_like(truth), truth, patches)
    for name, hits in pointed.items():
        figures.setdefault(f"pointing: {name}", []).append(hits.double().nanmean(dim=1))


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
        model: what answers; or the CLIP of Shapes, which is asked about captions, by pointing alone.
        samples: questions, or pictures.
        seed: of their choice.
        budgets: of fixlip, in runs of the model.
    """
    budgets = budgets or [512]
    if model == SHAPES_CLIP:
        _say(pointing_of_clip(root, samples, seed, budgets))
        return
    made: Any = load_model(ModelSource(model))
    made = MapperModel(made) if isinstance(made, CLIPMapper) else made
    questions = load_questions(made, DataConfig(root=root), "val")
    usable = questions.annotated()
    picked = [usable[i] for i in choose(column(questions.records, "image_id").to_numpy()[usable], samples, seed)]
    _say(measured(made, picked, questions, root, budgets))


def _say(figures: dict[str, list[Tensor]]) -> None:
    for name, parts in figures.items():
        found = mean_interval(np.asarray(torch.cat(parts)))
        ends = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
        print(f"{name}: {100 * found.mean:.1f} {ends} of {found.samples}")


if __name__ == "__main__":
    auto_cli(pairs)
