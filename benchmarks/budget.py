"""Quality against budget of explainers by removal: `python -m benchmarks.budget --root data/shapes --output budget.png`.

For each method and number of runs what an answer's probability does when tokens go in its order, and where its relevance
falls; beside them what one recorded pass gives.
"""

import time
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from jsonargparse import auto_cli
from matplotlib import pyplot as plt

from clipmapper.benchmark.measure import explain_batch, measure
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask, choose
from clipmapper.config import DataConfig, ModelSource
from clipmapper.data.files import column
from clipmapper.evaluation.answers import load_questions
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.clip_mapper import CLIPMapper
from xai import METHODS, Method, register
from xai.files import replacing
from xai.metrics.protocols import area, named
from xai.metrics.statistics import mean_interval

BATCH = 25
GAMES = ("consensus_game", "shapley", "banzhaf", "rise", "tis", "greedy")
BESIDE = ("consensus", "wra", "attn_lrp", "transatt", "occlusion")  # of no budget
PANELS = {
    "image/probability": "SRG image",
    "text/probability": "SRG text",
    "image/mass": "on objects",
    "image/precision": "precision on objects",
    "text/mass": "on words",
    "text/precision": "precision on words",
}


def with_budget(name: str, runs: int) -> str:
    """Registers a method with its number of runs; returns the name."""
    known = METHODS[name]
    function = partial(known.function, budget=runs)
    made = Method(f"{name}, {runs} runs", function, known.source, known.rules, known.start, removes=True)
    return register(made).name


def figures_of(task: AnswersTask, names: list[str], samples: int) -> dict[str, np.ndarray]:
    """Values by panel, [methods, samples], in percent."""
    config, shares = BenchmarkConfig(random_seeds=1), named("recommended", "image").shares
    parts: dict[str, list[np.ndarray]] = {panel: [] for panel in PANELS}
    for start in range(0, samples, BATCH):
        result = measure(task, range(start, min(start + BATCH, samples)), names, config)
        for name, error in result.errors.items():
            raise RuntimeError(f"{name}: {error}")
        for panel, values in parts.items():
            if panel.endswith("probability"):
                positive, negative = (_area(result.values[f"{panel}/{d}"], shares) for d in ("positive", "negative"))
                values.append(negative - positive)
            else:
                values.append(result.values[panel])
        print(f"{min(start + BATCH, samples)} of {samples} questions", flush=True)
    return {panel: 100 * np.concatenate(values, axis=1)[: len(names)] for panel, values in parts.items()}


def seconds_of(task: AnswersTask, names: list[str]) -> dict[str, float]:
    """Seconds a question of each method alone, with its recorded pass."""
    batch = task.batch(range(8))
    taken = {}
    for name in names:
        start = time.perf_counter()
        explain_batch(task, batch, [name]).relevances()
        taken[name] = (time.perf_counter() - start) / len(batch.ids)
    return taken


def budget(
    root: Path = Path("data/shapes"),
    output: Path = Path("budget.png"),
    model: str = "shapes-b-vqa",
    samples: int = 100,
    seed: int = 0,
    runs: list[int] | None = None,
) -> None:
    """Prints each figure in percent with its 95 % interval over questions, and draws them.

    Args:
        root: folder of Shapes.
        output: the picture.
        model: what answers.
        samples: questions.
        seed: of their choice.
        runs: of the model, for both modalities together.
    """
    runs = runs or [16, 64, 256, 1024]
    loaded = load_model(ModelSource(model))
    made = MapperModel(loaded) if isinstance(loaded, CLIPMapper) else loaded
    if not isinstance(made, VQAModel):
        raise ValueError(f"{model} writes captions; name one that answers")
    questions = load_questions(made, DataConfig(root=root), "val")
    usable = questions.annotated()
    picked = [usable[i] for i in choose(column(questions.records, "image_id").to_numpy()[usable], samples, seed)]
    task = AnswersTask(made, questions, picked, BenchmarkConfig(), root)
    games = {name: [with_budget(name, count) for count in runs] for name in GAMES}
    names = [*BESIDE, *(name for parts in games.values() for name in parts)]
    found, taken = figures_of(task, names, len(picked)), seconds_of(task, names)
    print("| method | " + " | ".join(PANELS.values()) + " | s |")
    print("| --- " * (len(PANELS) + 2) + "|")
    for row, name in enumerate(names):
        cells = [mean_interval(values[row]) for values in found.values()]
        printed = " | ".join(f"{cell.mean:.1f} [{cell.low:.1f}, {cell.high:.1f}]" for cell in cells)
        print(f"| {name} | {printed} | {taken[name]:.3f} |")
    _draw(found, names, games, runs, output)


def _area(curves: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    return area(torch.from_numpy(curves), shares).numpy()


def _draw(
    found: dict[str, np.ndarray], names: list[str], games: dict[str, list[str]], runs: list[int], path: Path
) -> None:
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    for axes, panel in zip(panels, list(PANELS)[:4], strict=True):
        means = dict(zip(names, np.nanmean(found[panel], axis=1), strict=True))
        for game, parts in games.items():
            axes.plot(runs, [means[part] for part in parts], marker="o", markersize=4, label=game)
        axes.axhline(means["consensus"], color="black", linestyle="--", label="consensus, one recorded pass")
        axes.set(title=PANELS[panel] + ", %", xscale="log", xlabel="runs of the model")
        axes.set_xticks(runs, [str(count) for count in runs], minor=False)
        axes.minorticks_off()
    panels[2].legend(fontsize=7, loc="center left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    auto_cli(budget)
