"""Compiled training: the numbers of eager training, plain checkpoints, and eager code in validation."""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipmapper.cli import Settings
from clipmapper.data.records import load_records
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.heads import AnswerHead
from clipmapper.training.compilation import CompiledSteps, require_compiler
from clipmapper.training.optimizer import make_optimizer
from clipmapper.training.run import run, task_and_data, train
from clipmapper.training.tasks import VQATask

from .test_run import last, logged, same

MakeSettings = Callable[..., Settings]
EXPLAINED = ("--explain.every=1", "--explain.methods=[wra]", "--explain.samples=2", "--explain.pictures=0")


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.slow  # many seconds for the C++ compiler
def test_compiled_steps_have_the_losses_of_eager_ones(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and backwards as graphs; C++ is written for the head's alone, as the compiler takes seconds for each kernel."""
    made, compiling = settings("run", "--model.dropout=0"), nn.Module.compile

    def compile(self: nn.Module) -> None:
        compiling(self, backend="inductor" if isinstance(self, AnswerHead) else "aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile)
    found = {}
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        task, data = task_and_data(made, load_records(made.data))
        task.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        if name == "compiled":
            CompiledSteps().on_fit_start(Any, task)  # type: ignore[arg-type]
        optimizer = make_optimizer(task.model, made.optimizer)
        batch, losses = data.train[[0, 7, 50]], []
        batch["tokens"] = task.model.clip.image_tokens(batch["image"])
        for step in range(3):
            losses.append(loss := task.training_step(batch, step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        found[name] = torch.stack(losses).tolist()
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-4)
    assert found["eager"][2] < found["eager"][0]
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    model = CLIPMapper._of_checkpoint(checkpoint, "it")
    assert task.model.mapper._compiled_call_impl is not None and model.mapper._compiled_call_impl is None
    with torch.compiler.set_stance("force_eager"):
        answers = [m.eval()(*(batch[k] for k in ("tokens", "ids", "mask"))) for m in (model, task.model)]
    assert answers[0].equal(answers[1])


def test_only_training_steps_run_compiled(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that counts, and needs no compiler: validation, examples and explanations run as written."""
    ran: Counter[tuple[str, str]] = Counter()  # by phase, and part of the model
    phase, step, compiling = ["other"], VQATask.training_step, nn.Module.compile

    def counting(part: str, graph: Any, inputs: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            ran[phase[0], part] += 1
            return graph(*args)

        return call

    def compile(self: nn.Module) -> None:
        compiling(self, backend=partial(counting, "head" if isinstance(self, AnswerHead) else "mapper"))

    def watched(self: VQATask, batch: Any, batch_idx: int) -> Tensor:
        phase[0] = "step"
        try:
            return step(self, batch, batch_idx)
        finally:
            phase[0] = "other"

    monkeypatch.setattr(nn.Module, "compile", compile)
    monkeypatch.setattr(VQATask, "training_step", watched)
    made = settings("run", "--run.compile=true", "--run.examples=2", "--trainer.limit_train_batches=3", *EXPLAINED)
    train(made, load_records(made.data))
    steps = 2 * 3  # of both epochs, so also after a validation
    assert ran == {("step", "mapper"): steps, ("step", "head"): steps}
    assert torch.compiler.set_stance("default").prev.stance == "default"
    assert set(logged(made.run.dir, "explain/samples").values()) == {2.0}


def test_resumed_compiled_run_is_as_if_never_interrupted(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiling(self, backend="eager"))
    options = ("--run.compile=true", "--trainer.max_epochs=-1")
    ended = {}
    for name, steps in (("whole", (6,)), ("cut", (3, 6))):
        for count in steps:
            made = settings(name, *options, f"--trainer.max_steps={count}", "--run.resume=auto")
            train(made, load_records(made.data))
        ended[name] = last(made.run.dir)
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert same(ended["cut"][part], ended["whole"][part]), part


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, device: str, variable: str) -> None:
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(ValueError, match=rf"run.compile: .* no-such-compiler is not there: .* {variable}, or leave"):
        require_compiler(torch.device(device))
    monkeypatch.setenv(variable, sys.executable)
    require_compiler(torch.device(device))


def test_a_run_without_a_compiler_leaves_with_that_message(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match=r"error: run\.compile: torch\.compile needs a C"):
        run(settings("run", "--run.compile=true"))
