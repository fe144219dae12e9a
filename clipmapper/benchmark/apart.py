"""Cost and sanity on a few samples, measured once by the first process, kept method by method and part by part."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clipmapper.benchmark.cost import costs
from clipmapper.benchmark.progress import progress_bar
from clipmapper.benchmark.sanity import Correlations, sanity
from clipmapper.benchmark.store import read_json, write
from clipmapper.benchmark.task import Task
from clipmapper.benchmark.work import Apart, first_batches
from clipmapper.processes import World, wait


def cost_and_sanity(
    task: Task, methods: Sequence[str], plan: Apart | None, size: int, folder: Path, world: World
) -> dict[str, Any]:
    """Returns "costs" by method and "sanity" by method and group; both are empty without a plan, or one of no sample.

    Args:
        task: what is benchmarked.
        methods: names of all methods.
        plan: on how many samples.
        size: of a part.
        folder: where parts are kept; those there are not measured again.
        world: the processes; all but the first wait.
    """
    if plan is None or not plan.samples:
        return {"costs": {}, "sanity": {}}
    cost_file = folder / "costs.json"
    files = [folder / f"sanity-{i:05d}.json" for i in range(len(range(0, plan.samples, size)))]
    if world.first:
        _measure(task, methods, plan, size, cost_file, files)

    def there() -> int:
        return len(read_json(cost_file) or {}) + sum(read_json(file) is not None for file in files)

    wait(there, len(methods) + len(files), "cost and sanity")
    return {"costs": read_json(cost_file), "sanity": joined([read_json(file) for file in files])}


def _measure(
    task: Task, methods: Sequence[str], plan: Apart, size: int, cost_file: Path, files: Sequence[Path]
) -> None:
    kept = read_json(cost_file) or {}
    if kept.keys() >= {*methods} and all(read_json(file) is not None for file in files):
        return
    batches = list(first_batches(task, plan.samples, size))
    with progress_bar("cost", len(batches[0].ids) * plan.cost) as progress:
        costs(task, batches[0], methods, kept, partial(write, cost_file), progress)
    with progress_bar("sanity", plan.samples * plan.sanity) as progress:
        for i, file in enumerate(files):
            if read_json(file) is not None:
                progress.add(size * plan.sanity)
            elif i < len(batches):
                write(file, sanity(task, batches[i], methods, plan.draws, progress))
            else:
                write(file, {})  # fewer samples can be read than there are


def joined(parts: Sequence[Correlations]) -> Correlations:
    """Returns the correlations of the samples of all parts."""
    whole: Correlations = {}
    for part in parts:
        for method, groups in part.items():
            for group, values in groups.items():
                whole.setdefault(method, {}).setdefault(group, []).extend(values)
    return whole
