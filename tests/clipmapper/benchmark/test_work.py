"""The work that is told before a benchmark is what it does; the bar counts it, and cost and sanity keep to their share."""

import io
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from clipmapper.benchmark import cost as cost_module
from clipmapper.benchmark import work as work_module
from clipmapper.benchmark.apart import cost_and_sanity, joined
from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.progress import Progress
from clipmapper.benchmark.run import method_names, run
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.benchmark.work import SHARE, Apart, announcement, apart_of, part_size, work_of
from clipmapper.processes import World
from xai.explainers import states
from xai.metrics.perturbation import Perturbed

from .conftest import CONFIG

MANY = ("genatt", "integrated_gradients", "smoothgrad")


class Recorder(Progress):
    """Keeps what the bar would show after each step."""

    def __init__(self) -> None:
        super().__init__(tqdm(total=10**6, file=io.StringIO()))
        self.seen: list[int] = []

    def add(self, passes: float) -> None:
        super().add(passes)
        assert self.bar is not None
        self.seen.append(int(self.bar.n))


def test_progress_counts_passes_and_inputs_and_keeps_to_the_plan() -> None:
    progress, module = Recorder(), nn.Identity()
    predict = progress.removals(lambda part: {"accuracy": torch.zeros(len(part.rows))})
    with progress.part(5):
        with progress.passes(module, 2):
            module(1)
        module(1)  # outside of what is counted
        figures: Mapping[str, Tensor] = predict(Perturbed(torch.arange(15), torch.ones(15, 2).bool(), 2))
        assert len(figures["accuracy"]) == 15 and progress.seen == [2, 3]
    assert progress.seen[-1] == 5
    with progress.part(5):
        progress.add(50)
    assert progress.seen[-1] == 10, "a part counts no more than it was planned to take"


def test_the_bar_moves_within_a_batch_and_the_plan_holds(task: AnswersTask, monkeypatch: pytest.MonkeyPatch) -> None:
    config, progress, calls = replace(CONFIG, methods=",".join(MANY)), Recorder(), []
    work = work_of(task, MANY, config)
    assert work.further == {"genatt": 0, "integrated_gradients": 33, "smoothgrad": 17}
    handle = task.module.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    monkeypatch.setattr(states, "at_once", lambda *_: 8)
    with progress.part(2 * work.passes()):
        measure(task, range(2), MANY, config, progress=progress)
    handle.remove()
    assert sum(calls) == 2 * 51 > 5 * len(calls), "one recorded, and those of the two methods"
    assert {2, *accumulate(calls)} <= set(progress.seen), "each pass of both samples moves the bar"
    assert progress.seen[-1] == 2 * work.passes() > progress.seen[-2] > 102, "inputs without tokens move it too"
    assert work.passes(absent=MANY[1:]) == work.passes() - 50


def test_parts_are_smaller_the_more_there_is_to_do(task: AnswersTask, monkeypatch: pytest.MonkeyPatch) -> None:
    few, all_of_them = (
        work_of(task, methods, CONFIG) for methods in (MANY[:1], method_names(replace(CONFIG, methods="all")))
    )
    assert part_size(task, few) == task.batch_size
    monkeypatch.setattr(work_module, "PART", work_module.PART / 30)  # as of a model thirty times as large
    assert 1 <= part_size(task, all_of_them) < part_size(task, few) <= task.batch_size
    assert part_size(task, few) == part_size(task, few)
    monkeypatch.setattr(work_module, "PART", 1)
    assert part_size(task, few) == 1


def test_cost_and_sanity_keep_to_their_share(task: AnswersTask) -> None:
    config = replace(CONFIG, cost_samples=8, sanity_draws=3)
    for passes in (3000, 10_000, 10**6):
        plan = apart_of(task, MANY, config, passes)
        assert plan.passes <= SHARE * passes and 1 <= plan.samples <= len(task) and 1 <= plan.draws <= 3
    assert (plan.samples, plan.draws) == (5, 3), "there is time for all"
    least = apart_of(task, MANY, config, 1)
    assert (least.samples, least.draws) == (1, 1)
    alone = least.cost + least.sanity  # of one sample with one draw
    silent = replace(config, cost_samples=None)
    assert [apart_of(task, MANY, silent, passes).samples for passes in (4 * alone - 1, 4 * alone)] == [0, 1]
    assert apart_of(task, MANY, silent, 10**6) == apart_of(task, MANY, config, 10**6)


def test_cost_and_sanity_take_the_passes_that_were_told(
    task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_module, "WATCHED", 1)  # which counts for more, as it takes longer
    calls: list[int] = []
    handle = task.module.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    plan = apart_of(task, MANY, replace(CONFIG, cost_samples=2, sanity_draws=1), 10**6)
    outcome = cost_and_sanity(task, MANY, plan, 1, tmp_path, World())
    handle.remove()
    told = plan.cost + plan.samples * plan.sanity  # cost on the first part, sanity on all
    assert sum(calls) == told + 2, "beside those, the pass of each part that says what is explained"
    assert outcome["costs"]["integrated_gradients"]["forward"] == 34 and outcome["costs"]["genatt"]["forward"] == 1
    assert [len(values) for values in outcome["sanity"]["genatt"].values()] == [2, 2]


def test_a_killed_measurement_of_cost_goes_on_with_the_next_method(
    task: AnswersTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, measured, alone = Apart(1, 1, 10, 10), [], cost_module._alone

    def dying(task: AnswersTask, batch: Any, method: str, progress: Progress) -> Any:
        measured.append(method)
        if measured.count("rollout") == 1 and method == "rollout":
            raise KeyboardInterrupt
        return alone(task, batch, method, progress)

    monkeypatch.setattr(cost_module, "_alone", dying)
    with pytest.raises(KeyboardInterrupt):
        cost_and_sanity(task, ("genatt", "rollout"), plan, 1, tmp_path, World())
    measured[:-1] = []
    cost_and_sanity(task, ("genatt", "rollout"), plan, 1, tmp_path, World())
    assert measured == ["rollout", "genatt", "rollout"], "the first call of a process warms up, then what is missing"
    again = len(measured)
    cost_and_sanity(task, ("genatt", "rollout"), plan, 1, tmp_path, World())
    assert len(measured) == again


def test_parts_of_sanity_are_joined() -> None:
    parts: list[Any] = [{"wra": {"head": [0.1]}}, {}, {"wra": {"head": [None, 0.3]}}]
    assert joined(parts) == {"wra": {"head": [0.1, None, 0.3]}}


def test_what_dominates_is_said_before_it_starts(
    task: AnswersTask, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, methods=",".join(MANY))
    work = work_of(task, MANY, config)
    text = announcement(task, work, [range(2), range(2, 4), range(4, 5)], 5 * work.passes(), Apart(1, 1, 20, 30))
    assert (
        f"passes a question, at most: {work.passes()} (1 recorded, 33 of integrated_gradients, 17 of smoothgrad" in text
    )
    assert "; kept each 2 questions\n" in text
    assert f"integrated_gradients and smoothgrad: 50 of {work.passes()} passes; --benchmark.many_pass_samples N" in text
    assert (
        "cost and sanity: 50 passes (15 % more) on 1 question with 1 noisy input each" in text
        and "--benchmark.cost_samples 0 leaves them out" in text
    )
    text = announcement(task, work, [range(2)], 2 * work.passes(), Apart(0, 1, 20, 30))
    assert "cost and sanity are left out: on one question they would take 38 % more passes" in text
    assert "--benchmark.cost_samples 1 measures them" in text
    monkeypatch.setattr("clipmapper.benchmark.run.measure", lambda *_: (_ for _ in ()).throw(KeyError("stopped")))
    with pytest.raises(KeyError):
        run(task, config, tmp_path, World())
    printed = capsys.readouterr().out
    assert "integrated_gradients and smoothgrad: 50 of" in printed


def test_a_benchmark_without_samples_is_refused(task: AnswersTask, tmp_path: Path) -> None:
    task.rows = []
    with pytest.raises(ValueError, match="no sample to explain"):
        run(task, CONFIG, tmp_path, World())
