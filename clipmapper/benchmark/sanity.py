"""Do explanations depend on what the model has learned? Each method before and after parts of the model are shuffled."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite

import torch
from torch import Tensor, nn

from clipmapper.benchmark.progress import Progress
from clipmapper.benchmark.task import Batch, Recorded, Task
from xai.explainers.registry import method_named
from xai.explanation import explain_each, record_for
from xai.metrics.sanity import noisy_output, randomisation
from xai.recording.reads import EVERYTHING
from xai.recording.recording import Score

NOISE = 0.05  # of the range of a sample's embeddings
REGIONS = ("visn_fc", "visual_projection")  # the modules by which LXMERT and VisualBERT embed regions
Correlations = dict[str, dict[str, list[float | None]]]  # by method and group, of each sample


def sanity_passes(task: Task, methods: Sequence[str]) -> int:
    """Returns the passes of a sample and draw: of the model as it is, and with each group of parameters shuffled."""
    further = sum(known.further(known.cheap) for known in map(method_named, methods))
    return (1 + len(task.parameter_groups())) * (1 + further)


def sanity(task: Task, batch: Batch, methods: Sequence[str], draws: int, progress: Progress) -> Correlations:
    """Shuffles each group of parameters alone and compares: smoothed model-parameter randomisation.

    The target explained is that of the model as it is. All methods of a draw share one recorded pass. All content tokens
    are ranked together.

    Returns:
        Spearman's correlation; None where a method raises or gives the same relevance to all tokens.

    Source: Adebayo et al. 2018; Hedström et al. 2024.
    """
    groups, embeddings = task.parameter_groups(), embedding_modules(task.module)
    own, names = task.record(batch, EVERYTHING), [method_named(name).name for name in methods]

    def explain(draw: int) -> Tensor:
        with ExitStack() as stack:
            for i, module in enumerate(embeddings):
                stack.enter_context(noisy_output(module, NOISE, seed=len(embeddings) * draw + i))
            noisy = record_for(methods, partial(task.record, batch))
            return _relevances(noisy, names, own.target)

    with progress.passes(task.module, len(batch.ids)):
        correlations = randomisation(
            task.module, explain, tuple(groups.values()), own.recording.content, draws, cascade=False
        ).tolist()
    return {
        name: {group: [_number(value) for value in correlations[g][m]] for g, group in enumerate(groups)}
        for m, name in enumerate(methods)
    }


def embedding_modules(module: nn.Module) -> list[nn.Module]:
    """Returns the modules that embed patches, words and regions, where noise is noise on the inputs."""
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)][:1]
    tables = sorted((m for m in module.modules() if isinstance(m, nn.Embedding)), key=lambda m: -m.num_embeddings)[:1]
    regions = [m for name, m in module.named_modules() if name.rpartition(".")[2] in REGIONS]
    return [*convolutions, *tables, *regions]


def _relevances(noisy: Recorded, methods: Sequence[str], target: Score) -> Tensor:
    """[methods, B, T], NaN of a method that fails: its row says why."""
    relevances, _ = explain_each(noisy.recording, methods, target, cheap=True)
    return torch.stack([torch.cat([s.float() for s in relevances[name].scores.values()], dim=1) for name in methods])


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return value if isfinite(value) else None
