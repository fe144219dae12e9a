"""One batch: recorded once, explained by all methods, and every map scored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clipmapper.benchmark.progress import Progress
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Explained, Maps, Records, Scorer, Task
from xai.explanation import record_for
from xai.metrics.localisation import average_precision, chance, mass_accuracy, rank_accuracy
from xai.metrics.perturbation import Predict, perturb
from xai.metrics.protocols import DIRECTIONS, Protocol
from xai.metrics.ranking import mean_baseline, random_relevance
from xai.recording.axis import Positions
from xai.report.data import Explanation

RANDOM = "random"  # the last row of every table: the mean over random maps


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The results of one batch.

    Attributes:
        ids: of the samples.
        samples: their columns.
        values: by metric [rows, samples], or [rows, samples, steps] of a curve; RANDOM is the last row.
        errors: why methods failed.
        gallery: by sample id what the report shows of it, by method.
        details: a pyarrow Table of the task's own, or None.
    """

    ids: list[int]
    samples: Records
    values: dict[str, np.ndarray]
    errors: dict[str, str]
    gallery: dict[int, dict[str, Explanation]]
    details: Any = None


def measure(
    task: Task,
    rows: Sequence[int],
    methods: Sequence[str],
    config: BenchmarkConfig,
    absent: Collection[str] = (),
    shown: Collection[int] = (),
    progress: Progress | None = None,
) -> BatchResult:
    """Explains and scores some samples.

    Args:
        task: what is benchmarked.
        rows: the samples.
        methods: names of all methods of the run.
        config: the settings.
        absent: methods that are not measured on these samples.
        shown: rows that the report shows.
        progress: counts the passes.

    Returns:
        The values of all methods and of random maps.

    Raises:
        BadImage: none of the samples can be read.
    """
    batch = task.batch(rows)
    explained = explain_batch(task, batch, methods, absent, progress)
    values = {}
    for prefix, maps in task.maps(batch, explained).items():
        for metric, scored in score(maps, len(batch.ids), config.random_seeds).items():
            values[f"{prefix}/{metric}" if prefix else metric] = scored.float().cpu().numpy()
    details = task.details(batch, explained, config)
    samples = task.samples(batch, explained)
    places = [i for i, row in enumerate(samples["row"]) if row in shown]
    gallery = {batch.ids[i]: task.explanations(batch, explained, i) for i in places}
    return BatchResult(batch.ids, samples, values, explained.errors, gallery, details)


def joined(parts: Sequence[BatchResult]) -> BatchResult:
    """Returns the samples of all parts as one batch.

    A method's error is that of its first part with one; a metric is NaN on the samples of a part without it.
    """
    first = parts[0]
    details = [part.details for part in parts if part.details is not None]
    return BatchResult(
        [key for part in parts for key in part.ids],
        {name: [value for part in parts for value in part.samples[name]] for name in first.samples},
        {key: _of_all(parts, key) for key in dict.fromkeys(key for part in parts for key in part.values)},
        {name: error for part in reversed(parts) for name, error in part.errors.items()},
        {key: shown for part in parts for key, shown in part.gallery.items()},
        pa.concat_tables(details) if details else None,
    )


def _of_all(parts: Sequence[BatchResult], metric: str) -> np.ndarray:
    rows, _, *steps = next(part.values[metric].shape for part in parts if metric in part.values)
    values = [part.values.get(metric, np.full((rows, len(part.ids), *steps), np.nan)) for part in parts]
    return np.concatenate(values, axis=1)


def explain_batch(
    task: Task, batch: Batch, methods: Sequence[str], absent: Collection[str] = (), progress: Progress | None = None
) -> Explained:
    """Records one pass for all methods, with rules for relevance if one of them needs rules and the model has them."""
    present = [name for name in methods if name not in absent]
    progress = progress or Progress()
    with progress.passes(task.module, len(batch.ids)):
        recorded = record_for(present, partial(task.record, batch))
    return Explained(recorded, tuple(methods), frozenset(absent), module=task.module, progress=progress)


def score(maps: Maps, samples: int, random_seeds: int) -> dict[str, Tensor]:
    """Scores maps and random ones: by metric [rows + 1, samples, ...], the mean over random maps last.

    A sample with several maps has the mean over those that are defined; one without any has NaN.
    """
    noise = maps.random
    if noise is None:
        noise = random_relevance(maps.ids.to(maps.scores.device), maps.scores.shape[-1], range(random_seeds))
    scores, rows = torch.cat([maps.scores, noise.to(maps.scores)]), len(maps.scores)
    by_metric = {}
    for scorer in maps.scorers:
        for metric, values in scorer(scores).items():
            by_metric[metric] = by_sample(mean_baseline(values.double(), rows), maps.samples, samples)
    return by_metric


def by_sample(values: Tensor, of: Tensor | None, samples: int) -> Tensor:
    """Means of values [rows, N, ...] over the maps of each sample, [rows, samples, ...]; `of` [N] is each map's sample."""
    if of is None:
        return values
    index = of.to(values.device)
    defined = ~values.isnan()
    shape = (len(values), samples, *values.shape[2:])
    sums = values.new_zeros(shape).index_add(1, index, values.nan_to_num())
    counts = values.new_zeros(shape).index_add(1, index, defined.to(values))
    return sums / counts  # 0 / 0 is NaN


def removal(
    predict: Predict, protocol: Protocol, removable: Tensor, mask: Tensor | None, ids: Tensor, batch_size: int | None
) -> Scorer:
    """Scores maps by what removing tokens in their order does to the output.

    Args:
        predict: the model on what is left.
        protocol: which shares are removed, and how.
        removable: [N, tokens], False at special tokens and padding.
        mask: [N, tokens], False at padding; None if there is none.
        ids: [N], decide ties.
        batch_size: inputs at once; None for 64 on a CPU, whose caches hold no more, and 1024 on a GPU.
    """
    size = batch_size or (64 if removable.device.type == "cpu" else 1024)

    def curves(scores: Tensor) -> dict[str, Tensor]:
        metrics = perturb(scores, removable, ids.to(removable.device), predict, protocol, mask, size)
        return {f"{name}/{d}": by[:, i] for name, by in metrics.items() for i, d in enumerate(DIRECTIONS)}

    return curves


def location(ground_truth: Tensor, valid: Tensor) -> Scorer:
    """Scores maps by where their relevance falls.

    A map without positive relevance counts as chance, as one of equal scores does, and `no_positive` is 1 for it, so
    that all methods are compared on the same samples.

    Args:
        ground_truth: [N, tokens], how much of each token is right, 0 to 1.
        valid: [N, tokens], False at special tokens and padding.
    """

    def shares(scores: Tensor) -> dict[str, Tensor]:
        relevance, truth = scores.double().cpu(), ground_truth.double().cpu()
        content = valid.cpu()
        equal = chance(truth, content).double()
        nothing = (relevance.clamp(min=0) * content).sum(dim=-1) == 0
        empty = nothing.double().where(~relevance.isnan().any(dim=-1) & equal.isfinite(), torch.nan)
        return {
            "mass": mass_accuracy(relevance, truth, content).where(~nothing, equal),
            "rank": rank_accuracy(relevance, truth, content),
            "precision": average_precision(relevance, truth, content),
            "no_positive": empty,
        }

    return shares


def share_of(tokens: Positions, valid: Tensor, name: str) -> Scorer:
    """Scores joint maps [N, tokens] by how much of their positive relevance lies on some of the tokens."""

    def share(scores: Tensor) -> dict[str, Tensor]:
        positive = scores.clamp(min=0) * valid
        return {name: positive[..., tokens].sum(dim=-1) / positive.sum(dim=-1)}

    return share
