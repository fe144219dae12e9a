"""The difference between one benchmark and another: how samples become inputs and a target, what is scored, and by what."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from clipmapper.benchmark.progress import Progress
from clipmapper.benchmark.published import Published
from clipmapper.benchmark.settings import BenchmarkConfig
from xai.explanation import explain_each
from xai.metrics import protocols
from xai.recording.reads import Needs
from xai.recording.recording import Recording, Score
from xai.report.data import Column, Explanation, Sample
from xai.results.relevance import Relevance

Records = dict[str, list[Any]]  # columns, one entry a sample
Scorer = Callable[[Tensor], Mapping[str, Tensor]]
"""From scores [methods, N, tokens] to values by metric, [methods, N], or [methods, N, steps] of a curve."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as the task's model takes them.

    Attributes:
        ids: a number of each sample, which is unique in the task; decides its random scores.
        inputs: what the task's own functions take.
        records: the samples' own columns.
    """

    ids: list[int]
    inputs: Any
    records: Records


class Recorded(Protocol):
    """One recorded pass, and the target that is explained by default."""

    @property
    def recording(self) -> Recording: ...

    @property
    def target(self) -> Score: ...


@dataclass(frozen=True, eq=False)
class Pass:
    """A pass of which no more is known than that."""

    recording: Recording
    target: Score


@dataclass(frozen=True, eq=False)
class Maps:
    """Scores of all rows of the table on one set of tokens, and what they are scored by.

    Attributes:
        scores: [methods, N, tokens], NaN where a method failed.
        ids: [N], a number of each map, which decides its random scores.
        scorers: what they are scored by.
        samples: [N], the sample of the batch that each map is of; None where map i is of sample i.
        random: random maps [seeds, N, tokens]; None draws them by id and position.
    """

    scores: Tensor
    ids: Tensor
    scorers: Sequence[Scorer]
    samples: Tensor | None = None
    random: Tensor | None = None


@dataclass(eq=False)
class Explained:
    """A recorded batch, explained by several methods for any target.

    Attributes:
        methods: names of all methods, in the order of the results.
        absent: those of them that are not measured on this batch; their scores are NaN.
        errors: why methods failed, the first reason of each.
        module: the module that a pass calls.
        progress: counts the passes.
    """

    recorded: Recorded
    methods: tuple[str, ...]
    absent: frozenset[str] = frozenset()
    errors: dict[str, str] = field(default_factory=dict)
    module: nn.Module = field(default_factory=nn.Identity, repr=False)
    progress: Progress = field(default_factory=Progress, repr=False)
    _relevances: dict[int, tuple[Score, dict[str, Relevance]]] = field(default_factory=dict, repr=False)

    def relevances(self, target: Score | None = None, recording: Recording | None = None) -> dict[str, Relevance]:
        """Returns the relevance by each method that is measured here; scores of a method that failed are NaN.

        Args:
            target: what is explained; None for the recorded pass's own target.
            recording: the pass; None for the recorded one. A fresh copy of it frees the memory of earlier targets.
        """
        target = self.recorded.target if target is None else target
        if recording is None and id(target) in self._relevances:
            return self._relevances[id(target)][1]
        measured = [name for name in self.methods if name not in self.absent]
        with self.progress.passes(self.module, len(self.recorded.recording.mask)):
            relevances, errors = explain_each(recording or self.recorded.recording, measured, target)
        self.errors = errors | self.errors
        if recording is None:
            self._relevances[id(target)] = (target, relevances)
        return relevances

    def scores(self, modality: str, target: Score | None = None, recording: Recording | None = None) -> Tensor:
        """Returns scores [methods, B, tokens] of a modality."""
        record = self.recorded.recording
        relevances = self.relevances(target, recording)
        shape = record.mask[:, record.modalities[modality]].shape
        absent = torch.full(shape, torch.nan, device=record.mask.device)
        rows = [relevances[n].scores[modality].float() if n in relevances else absent for n in self.methods]
        return torch.stack(rows) if rows else absent.new_zeros(0, *shape)

    @property
    def shown(self) -> dict[str, Relevance]:
        """The relevances for the own target of methods that did not fail."""
        return {name: relevance for name, relevance in self.relevances().items() if name not in self.errors}


class Task(ABC):
    """A benchmark's samples, model and metrics.

    Attributes:
        name: such as "answers".
        unit: what a sample is called in tables: "question", "image".
        module: the module that a recorded pass calls once.
        strata: columns of the records by whose values the samples are parted in tables.
        facts: what stands at the foot of a report.
        order: the metrics whose sum puts the methods in order, best first.
        published: a paper's figures to stand beside ours.
        batch_size: samples explained at once, at most, unless the settings say otherwise.
        targets: for how many targets each sample is explained, as far as that is known before.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "sample"
    module: nn.Module
    strata: tuple[str, ...] = ()
    facts: Mapping[str, str] = {}
    order: tuple[str, ...] = ()
    published: Published | None = None
    batch_size: int = 32
    targets: int = 1

    @abstractmethod
    def __len__(self) -> int:
        """Returns how many samples there are."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Returns what results depend on beside the settings, as plain values: two runs must share it to go on."""

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> Batch:
        """Returns some samples; those that cannot be read are left out. Raises BadImage if none can."""

    @abstractmethod
    def record(self, batch: Batch, reads: Needs) -> Recorded:
        """Records one pass; raises PropagationError if `lrp` is asked for and an operation has no rule."""

    @abstractmethod
    def maps(self, batch: Batch, explained: Explained) -> dict[str, Maps]:
        """Returns what is scored, by the first part of the metrics' names."""

    @abstractmethod
    def columns(self) -> list[Column]:
        """Returns what the metrics are called and mean, in the order of the tables."""

    def names(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Returns the rows of the table: the methods, and what else the task's maps hold."""
        return tuple(methods)

    def samples(self, batch: Batch, explained: Explained) -> Records:
        """Returns the samples' columns for the tables; "right" parts them where the model can be right."""
        return batch.records

    def protocols(self) -> dict[str, protocols.Protocol]:
        """Returns how tokens are removed, by the first part of the metrics' names."""
        return {}

    def parameter_groups(self) -> dict[str, tuple[str, ...]]:
        """Returns the parts of `module` that the sanity check shuffles, as names of submodules."""
        return {"model": tuple(name for name, _ in self.module.named_children())}

    def corpus(
        self, values: Mapping[str, np.ndarray], details: Any, rows: Sequence[str], config: BenchmarkConfig
    ) -> dict[str, np.ndarray]:
        """Returns metrics that are no means over samples, [rows, 1 + resamples]: the data's own first.

        Args:
            values: by metric [rows, samples], or [rows, samples, steps].
            details: the table of all batches' `details`, None if there are none.
            rows: names of the table's rows, the random baseline last.
            config: the settings.
        """
        return {}

    def details(self, batch: Batch, explained: Explained, config: BenchmarkConfig) -> Any:
        """Returns a pyarrow Table to be kept beside the values, or None."""
        return None

    def pictures(self, batch: Batch, explained: Explained) -> Iterator[tuple[Figure, str]]:
        """Yields a picture of each sample under all methods, for logs, and what is said below it."""
        yield from ()

    def explanations(self, batch: Batch, explained: Explained, place: int) -> dict[str, Explanation]:
        """Returns what the report shows of one sample of the batch, by method."""
        return {}

    def gallery(self, record: Mapping[str, Any], explanations: Mapping[str, Explanation]) -> Sample | None:
        """Returns a sample of the report from its columns; None if its image cannot be read any more."""
        return None
