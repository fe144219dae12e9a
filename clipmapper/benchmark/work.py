"""The work of a benchmark, known before it starts: passes through the model, the size of its parts, cost and sanity's share.

Nothing here depends on how fast a machine is, so that a run that goes on elsewhere does the same.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

from clipmapper.benchmark.cost import cost_passes
from clipmapper.benchmark.sanity import sanity_passes
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Batch, Task
from clipmapper.images import BadImage
from xai.explainers.method import SHORTER
from xai.explainers.registry import method_named
from xai.recording.reads import EVERYTHING

PART = 7e12  # passes times weights times tokens of a part: a minute or so of two idle cores
# of all samples' passes, that cost and sanity may add: theirs, with all rules of LRP, take about twice as long
SHARE = 1 / 8
MOST = 1 / 4  # what those of a single sample may add where the settings do not ask for them
COST_SAMPLES = 8


@dataclass(frozen=True)
class Work:
    """The passes of one sample, at most.

    Attributes:
        further: by method, passes beside the recorded one that all share.
        removals: inputs without some tokens, of which equal ones run once.
    """

    further: Mapping[str, int]
    removals: int

    def passes(self, absent: Collection[str] = ()) -> int:
        own = sum(count for name, count in self.further.items() if name not in absent)
        return 1 + own + ceil(self.removals / SHORTER)


@dataclass(frozen=True)
class Apart:
    """Cost and sanity: on how many samples, 0 if they are left out, of how many noisy inputs each, and the passes of one."""

    samples: int
    draws: int
    cost: int
    sanity: int

    @property
    def passes(self) -> int:
        return self.samples * (self.cost + self.sanity)


def work_of(task: Task, methods: Sequence[str], config: BenchmarkConfig) -> Work:
    """Returns the passes of one sample."""
    maps = len(task.names(methods)) + config.random_seeds
    removals = 0
    for protocol in task.protocols().values():
        ends = {0.0, 1.0} & {*protocol.shares}  # the same for all maps
        removals += 2 * maps * (len(protocol.shares) - len(ends)) + len(ends)
    return Work({name: method_named(name).further(targets=task.targets) for name in methods}, removals)


def part_size(task: Task, work: Work) -> int:
    """Returns how many samples a part holds where the settings do not say: on a CPU fewer, the larger model and input are.

    A GPU is idle with few samples, and quick with many.
    """
    parameters = list(task.module.parameters())
    if parameters[0].device.type == "cuda":
        return task.batch_size
    first = next(first_batches(task, 1, 1))
    tokens = task.record(first, EVERYTHING).recording.mask.shape[1]
    weights = sum(parameter.numel() for parameter in parameters if parameter.dim() > 1)
    return max(1, min(task.batch_size, int(PART / (work.passes() * weights * tokens))))


def apart_of(task: Task, methods: Sequence[str], config: BenchmarkConfig, passes: int) -> Apart:
    """Returns what of cost and sanity stays within SHARE of all samples' passes, at least one sample with one draw.

    Where nobody asks for them and that would be more than MOST, no sample.
    """
    cost, draw = cost_passes(methods, task.targets), sanity_passes(task, methods)
    if config.cost_samples is None and cost + draw > MOST * passes:
        return Apart(0, 1, cost, draw)
    limit, most = SHARE * passes, COST_SAMPLES if config.cost_samples is None else config.cost_samples
    samples = _within(limit / (cost + config.sanity_draws * draw), min(most, len(task)))
    draws = _within((limit / samples - cost) / draw, config.sanity_draws)
    return Apart(samples, draws, cost, draws * draw)


def first_batches(task: Task, count: int, size: int) -> Iterator[Batch]:
    """Yields the first `count` samples that can be read, so many at a time; raises ValueError if none can."""
    seen = start = 0
    while start < len(task) and seen < count:
        rows = range(start, min(start + min(size, count - seen), len(task)))
        start = rows.stop
        with suppress(BadImage):
            batch = task.batch(rows)
            seen += len(batch.ids)
            yield batch
    if not seen:
        raise ValueError(f"none of {len(task)} {task.unit}s can be read")


def announcement(task: Task, work: Work, batches: Sequence[range], passes: int, apart: Apart | None) -> str:
    """Returns what dominates, and how it is left out."""
    each, many = work.passes(), {name: count for name, count in work.further.items() if count}
    named = [f"{count} of {name}" for name, count in many.items()]
    removed = f"{ceil(work.removals / SHORTER)} for {work.removals} inputs without some tokens"
    parts = ["1 recorded", *named, *([removed] if work.removals else [])]
    first = f"{task.name}: passes a {task.unit}, at most: {each} ({', '.join(parts)}); in all {passes}"
    lines = [f"{first}; kept each {counted(max(map(len, batches)), task.unit)}"]
    if many:
        lines.append(
            f"{' and '.join(many)}: {sum(many.values())} of {each} passes; --benchmark.many_pass_samples N lets them explain "
            f"N {task.unit}s, --benchmark.methods leaves them out"
        )
    if apart is not None and not apart.samples:
        share = f"{100 * (apart.cost + apart.sanity) / passes:.0f} % more"
        lines.append(
            f"cost and sanity are left out: on one {task.unit} they would take {share} passes; "
            "--benchmark.cost_samples 1 measures them"
        )
    elif apart is not None:
        share = f"{100 * apart.passes / passes:.0f} % more"
        lines.append(
            f"cost and sanity: {apart.passes} passes ({share}) on {counted(apart.samples, task.unit)} with "
            f"{counted(apart.draws, 'noisy input')} each; --benchmark.cost_samples 0 leaves them out"
        )
    return "\n".join(lines)


def counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' * (count != 1)}"


def _within(count: float, most: int) -> int:
    return max(1, min(int(count), most))
