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
from clipmapper.benchmark.cost import costs
from clipmapper.benchmark.measure import RANDOM, BatchResult, joined, measure
from clipmapper.benchmark.sanity import sanity
from clipmapper.benchmark.settings import PAPERS, BenchmarkConfig
from clipmapper.benchmark.store import Store, read_json, save_table, write
from clipmapper.benchmark.summary import summarise, with_inverted
from clipmapper.benchmark.task import Task
from clipmapper.images import BadImage
from clipmapper.processes import World, launched, wait
from xai.explainers.registry import METHODS, method_named
from xai.report.build import write_report
from xai.report.data import Report

FOLDER = "explainers"  # where the batches lie, below the output
NOT_RE_READ = ("methods", "samples", "batch_size")  # settings that the key holds resolved


@dataclass(frozen=True)
class Outcome:
    """What metrics.json holds under "explainers", and what the HTML report shows."""

    metrics: dict[str, Any]
    report: Report


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
    batches = plan(len(task), config.batch_size or task.batch_size, config.many_pass_samples)
    store = Store(
        output / FOLDER,
        {**settings_key(config), **task.key(), "methods": list(rows), "batches": [len(b) for b in batches]},
    )
    _measure_share(task, config, methods, batches, store, world)
    apart = _apart(task, config, methods, store.folder, world)
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
    return Outcome(metrics, report)


def method_names(config: BenchmarkConfig) -> tuple[str, ...]:
    """Returns the methods of the settings, each once; raises ValueError for an unknown one.

    "all" are the registered methods that score tokens; random maps are always measured, so they are never among them.
    """
    names: list[str] = []
    for name in config.names:
        if name == "all":
            names += [n for n, method in METHODS.items() if method.start != "pixels"]
        else:
            names += PAPERS if name == "papers" else [method_named(name).name]
    chosen = tuple(dict.fromkeys(name for name in names if name != RANDOM))
    if not chosen:
        raise ValueError("benchmark.methods names no method beside random, which is always measured")
    return chosen


def plan(samples: int, batch_size: int, many_pass: int | None) -> list[range]:
    """Returns the rows of each batch; no batch lies on both sides of the last sample of methods with many passes."""
    if not samples:
        raise ValueError("the data has no sample to explain")
    edges = sorted({0, min(many_pass or samples, samples), samples})
    parts = [range(a, b) for a, b in pairwise(edges)]
    return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


def settings_key(config: BenchmarkConfig) -> dict[str, Any]:
    """Returns the settings that results depend on, by their names on the command line."""
    return {f"benchmark.{name}": value for name, value in asdict(config).items() if name not in NOT_RE_READ}


def gallery_rows(samples: int, count: int) -> frozenset[int]:
    """Returns rows from all over the samples."""
    return frozenset(np.linspace(0, samples - 1, min(count, samples)).astype(int).tolist())


def _measure_share(
    task: Task, config: BenchmarkConfig, methods: tuple[str, ...], batches: Sequence[range], store: Store, world: World
) -> None:
    """Measures the batches of this process that are not there yet."""
    share = world.share(range(len(batches)))
    todo = [i for i in share if not store.complete(i)]
    shown, rows = gallery_rows(len(task), config.gallery), (*task.names(methods), RANDOM)
    steps = {name: protocol.shares for name, protocol in task.protocols().items()}
    many = {name for name in methods if method_named(name).passes != "one"}
    limit = len(task) if config.many_pass_samples is None else config.many_pass_samples
    for i in tqdm(todo, desc=task.name, unit="batch", initial=len(share) - len(todo), total=len(share)):
        absent = many if batches[i].start >= limit else frozenset[str]()
        try:
            result = measure_in_memory(task, batches[i], methods, config, absent, shown)
        except BadImage:
            store.leave_out(i)
            continue
        store.add(i, result, rows, steps)


def measure_in_memory(
    task: Task,
    rows: range,
    methods: Sequence[str],
    config: BenchmarkConfig,
    absent: Collection[str],
    shown: Collection[int],
) -> BatchResult:
    """Measures some samples; where memory does not hold them, half of them at a time."""
    try:
        return measure(task, rows, methods, config, absent, shown)
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
            halves.append(measure_in_memory(task, half, methods, config, absent, shown))
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


def _apart(task: Task, config: BenchmarkConfig, methods: tuple[str, ...], folder: Path, world: World) -> dict[str, Any]:
    """Cost and sanity on a few samples: measured once by the first process, kept in `folder`."""
    paths = {name: folder / f"{name}.json" for name in ("costs", "sanity")}
    if not config.cost_samples:
        return {name: {} for name in paths}
    if world.first and any(read_json(path) is None for path in paths.values()):
        batch = _few(task, config.cost_samples)
        if read_json(paths["costs"]) is None:
            write(paths["costs"], costs(task, batch, methods))
        if read_json(paths["sanity"]) is None:
            write(paths["sanity"], sanity(task, batch, methods, config.sanity_draws))
    wait(lambda: sum(read_json(path) is not None for path in paths.values()), len(paths), "cost and sanity")
    return {name: read_json(path) for name, path in paths.items()}


def _few(task: Task, count: int) -> Any:
    """Returns the first samples that can be read."""
    for start in range(0, len(task), count):
        with suppress(BadImage):
            return task.batch(range(start, min(start + count, len(task))))
    raise ValueError(f"none of {len(task)} {task.unit}s can be read")
