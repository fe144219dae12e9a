"""The one benchmark: batch after batch measured and kept on disk, then summed up, drawn and written."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from clipmapper.benchmark import page, plots, table
from clipmapper.benchmark.apart import cost_and_sanity
from clipmapper.benchmark.measure import RANDOM, BatchResult, joined, measure
from clipmapper.benchmark.progress import Progress, progress_bar
from clipmapper.benchmark.settings import PAPERS, BenchmarkConfig
from clipmapper.benchmark.store import Store, save_table
from clipmapper.benchmark.summary import summarise, with_inverted
from clipmapper.benchmark.task import Task
from clipmapper.benchmark.work import announcement, apart_of, part_size, work_of
from clipmapper.images import BadImage
from clipmapper.processes import World, give_back_memory, launched, wait
from xai.explainers.registry import METHODS, method_named
from xai.report.build import write_report
from xai.report.data import Report

FOLDER = "explainers"  # where the batches lie, below the output
NOT_RE_READ = ("methods", "samples", "batch_size")  # settings that the key holds resolved


@dataclass(frozen=True)
class Outcome:
    """A benchmark's end.

    Attributes:
        metrics: the part of metrics.json under "explainers".
        report: the content of the HTML page.
        samples: the samples' columns.
    """

    metrics: dict[str, Any]
    report: Report
    samples: dict[str, list[Any]]


def run(task: Task, config: BenchmarkConfig, output: Path, world: World | None = None) -> Outcome:
    """Explains and scores all samples of a task; goes on where an interrupted run of the same benchmark stopped.

    Batches are kept in `output`/explainers. The processes of `world` share them; the first one alone writes values.parquet,
    samples.parquet, curves.png and report.html and prints the table; all return it.

    Args:
        task: what is benchmarked.
        config: the settings.
        output: folder for the results.
        world: the processes; by default those that were launched together.

    Raises:
        ValueError: an unknown method, no readable sample, or the folder holds another benchmark.
    """
    world = world or launched()
    methods = method_names(config)
    rows = task.names(methods)
    if not len(task):
        raise ValueError("the data has no sample to explain")
    work = work_of(task, methods, config)
    size = config.batch_size or part_size(task, work)
    batches = plan(len(task), size, config.many_pass_samples)
    store = Store(
        output / FOLDER,
        {**settings_key(config), **task.key(), "methods": list(rows), "batches": [len(b) for b in batches]},
    )
    passes = [len(b) * work.passes(_absent(b, methods, config)) for b in batches]
    plan_apart = apart_of(task, methods, config, sum(passes)) if config.cost_samples != 0 else None
    if world.first:
        tqdm.write(announcement(task, work, batches, sum(passes), plan_apart))
    _measure_share(task, config, methods, batches, passes, store, world)
    apart = cost_and_sanity(task, methods, plan_apart, size, store.folder, world)
    wait(_Arrivals(store, len(batches)), len(batches), "batches")
    results = with_inverted(task, store.results(len(batches), (*rows, RANDOM)))
    metrics = summarise(task, results, config, **apart)
    report = page.report(task, results, metrics, page.gallery(task, results, store.gallery(len(batches))))
    if world.first:
        save_table(output / "values.parquet", store.long(len(batches)))
        save_table(output / "samples.parquet", pa.table(results.samples))
        if figure := plots.curves(task, results):
            plots.save(figure, output / "curves.png")
        write_report(report, output / "report.html")
        print(table.text(task, metrics), flush=True)
    return Outcome(metrics, report, results.samples)


def method_names(config: BenchmarkConfig) -> tuple[str, ...]:
    """Returns the methods of the settings, each once; raises ValueError for an unknown one.

    "all" are the registered methods that score tokens of any model from a recorded pass and gradients, "removal" those that run
    it without some of its tokens; random maps are always measured, so never among them.
    """
    names: list[str] = []
    for name in config.names:
        if name in ("all", "removal"):
            of_tokens = {n: method for n, method in METHODS.items() if method.start != "pixels" and not method.models}
            names += [n for n, method in of_tokens.items() if method.removes == (name == "removal")]
        else:
            names += PAPERS if name == "papers" else [method_named(name).name]
    chosen = tuple(dict.fromkeys(name for name in names if name != RANDOM))
    if not chosen:
        raise ValueError("benchmark.methods names no method beside random, which is always measured")
    return chosen


def plan(samples: int, batch_size: int, many_pass: int | None) -> list[range]:
    """Returns the rows of each batch; no batch lies on both sides of the last sample of methods with many passes."""
    edges = sorted({0, min(many_pass or samples, samples), samples})
    parts = [range(a, b) for a, b in pairwise(edges)]
    return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


def settings_key(config: BenchmarkConfig) -> dict[str, Any]:
    """Returns the settings that results depend on, by their names on the command line."""
    return {f"benchmark.{name}": value for name, value in asdict(config).items() if name not in NOT_RE_READ}


def gallery_rows(samples: int, count: int) -> frozenset[int]:
    """Returns rows from all over the samples."""
    return frozenset(np.linspace(0, samples - 1, min(count, samples)).astype(int).tolist())


def _absent(batch: range, methods: Sequence[str], config: BenchmarkConfig) -> frozenset[str]:
    """The methods with many passes, on samples that they do not explain."""
    if config.many_pass_samples is None or batch.start < config.many_pass_samples:
        return frozenset()
    return frozenset(name for name in methods if method_named(name).passes != "one")


def _measure_share(
    task: Task,
    config: BenchmarkConfig,
    methods: tuple[str, ...],
    batches: Sequence[range],
    passes: Sequence[int],
    store: Store,
    world: World,
) -> None:
    """Measures the batches of this process that are not there yet."""
    share = world.share(range(len(batches)))
    todo = [i for i in share if not store.complete(i)]
    shown, rows = gallery_rows(len(task), config.gallery), (*task.names(methods), RANDOM)
    steps = {name: protocol.shares for name, protocol in task.protocols().items()}
    total, left = (sum(passes[i] for i in some) for some in (share, todo))
    with progress_bar(task.name, total, total - left) as progress:
        for i in todo:
            with progress.part(passes[i]):
                try:
                    absent = _absent(batches[i], methods, config)
                    result = measure_in_memory(task, batches[i], methods, config, absent, shown, progress)
                except BadImage:
                    store.leave_out(i)
                else:
                    store.add(i, result, rows, steps)
            give_back_memory()


def measure_in_memory(
    task: Task,
    rows: range,
    methods: Sequence[str],
    config: BenchmarkConfig,
    absent: Collection[str],
    shown: Collection[int],
    progress: Progress | None = None,
) -> BatchResult:
    """Measures some samples; where memory does not hold them, half of them at a time."""
    try:
        return measure(task, rows, methods, config, absent, shown, progress)
    except (torch.OutOfMemoryError, MemoryError) as error:
        if len(rows) == 1:
            raise ValueError(
                f"one {task.unit} does not fit into memory with {len(methods)} methods ({error}): give fewer --benchmark.methods"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    tqdm.write(
        f"{len(rows)} {task.unit}s do not fit into memory: going on with {middle} at a time (--benchmark.batch_size)"
    )
    halves = []
    for half in (rows[:middle], rows[middle:]):
        with suppress(BadImage):
            halves.append(measure_in_memory(task, half, methods, config, absent, shown, progress))
    if not halves:
        raise BadImage(f"none of {len(rows)} {task.unit}s can be read")
    return joined(halves)


class _Arrivals:
    """Counts the batches that are there; those that were seen are not looked at again."""

    def __init__(self, store: Store, count: int) -> None:
        self.store, self.missing, self.count = store, set(range(count)), count

    def __call__(self) -> int:
        self.missing -= {i for i in self.missing if self.store.complete(i)}
        return self.count - len(self.missing)
