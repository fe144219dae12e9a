"""What a training step costs and keeps: no look at a value, fused attention, float32 where it counts, no lost weights."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clipmapper.cli import Settings
from clipmapper.data.batches import Batch
from clipmapper.data.records import load_captions, load_records
from clipmapper.explain.answers import explain_answer
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.training import tasks
from clipmapper.training.run import task_and_data, train
from clipmapper.training.tasks import MapperTask

MakeSettings = Callable[..., Settings]
CAPTION = ("--model.task=caption", "--model.tokens=seen", "--run.captioned=4")


def task_and_batch(settings: Settings) -> tuple[MapperTask, Batch]:
    """A new task that logs nowhere, and its first three samples with their pixels."""
    caption = settings.model.task == "caption"
    task, data = task_and_data(settings, (load_captions if caption else load_records)(settings.data))
    task.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return task, data.train[[0, 7, 50]]


@pytest.mark.parametrize("options", [(), ("--model.mapper=a", "--model.read=text"), CAPTION])
def test_a_step_never_looks_at_a_value(settings: MakeSettings, options: tuple[str, ...]) -> None:
    """A GPU would have to finish all it was given first. Fake tensors have no values: to look at one raises."""
    task, batch = task_and_batch(settings("run", *options))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(value) for name, value in batch.items()}
        assert task.training_step(fake, 0).shape == ()
        with pytest.raises(DynamicOutputShapeException):
            fake["ids"][fake["mask"]]


class Operations(TorchDispatchMode):
    """Counts what is computed, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_attention_is_fused_in_training_also_after_an_explanation(settings: MakeSettings) -> None:
    task, batch = task_and_batch(settings("run", "--model.dropout=0"))
    model, image = task.model, batch["image"]
    batch["image"] = model.clip.image_tokens(image)
    for _ in range(2):
        with Operations() as seen:
            task.training_step(batch, 0)
        text_layers = len(model.clip.model.transformer.resblocks)
        fused = {name: n for name, n in seen.counts.items() if "attention" in name}
        assert sum(fused.values()) == text_layers + 3, "self of both and cross of the image, in the last layer of B"
        assert not seen.counts["_softmax"], "a map of attention was written out"
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        assert hooks == 0
        picture = torch.zeros(40, 40, 3, dtype=torch.uint8)
        explain_answer(model.eval(), _image(picture), "Is it red?", "wra")
        model.train()


def _image(pixels: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(pixels.numpy())


def test_bf16_trains_with_losses_and_weights_in_float32(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: dict[str, set[torch.dtype]] = {"logits": set(), "loss": set(), "binned": set()}
    loss, bce = tasks.soft_label_loss, torch.nn.functional.binary_cross_entropy_with_logits

    def watched_loss(logits: Tensor, scores: Tensor) -> Tensor:
        found["logits"].add(logits.dtype)
        found["loss"].add((value := loss(logits, scores)).dtype)
        return value

    def watched_bce(logits: Tensor, *args: Any, **options: Any) -> Tensor:
        found["binned"].add(logits.dtype)
        return bce(logits, *args, **options)

    monkeypatch.setattr(tasks, "soft_label_loss", watched_loss)
    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", watched_bce)
    ended = {}
    for name in ("bf16-mixed", "32-true"):
        made = settings(name, f"--trainer.precision={name}", "--trainer.max_epochs=1", "--model.dropout=0")
        train(made, load_records(made.data))
        ended[name] = read_checkpoint(made.run.dir / "checkpoints" / "best.ckpt")
        if name == "bf16-mixed":
            assert found == {"logits": {torch.bfloat16}, "loss": {torch.float32}, "binned": {torch.float32}}
    half, full = (ended[name]["state_dict"] for name in ("bf16-mixed", "32-true"))
    assert all(value.dtype == torch.float32 for value in half.values())
    name = "model.head.1.weight"
    assert not half[name].equal(full[name]) and torch.allclose(half[name], full[name], atol=5e-3)


def broken_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the loss of a step NaN, and its gradients with it."""
    loss = tasks.VQATask.loss
    monkeypatch.setattr(
        tasks.VQATask, "loss", lambda self, b: loss(self, b) * (float("nan") if self.global_step == step else 1.0)
    )


@pytest.mark.parametrize(("every", "look", "kept"), [(3, 50, 3), (1, 50, 4), (100, 5, None)])
def test_a_run_that_diverges_stops_before_its_checkpoint_is_lost(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, every: int, look: int, kept: int | None
) -> None:
    broken_at(4, monkeypatch)
    monkeypatch.setattr(tasks, "LOOK_EVERY", look)
    made = settings("run", f"--run.checkpoint_every={every}")
    with pytest.raises(FloatingPointError, match=r"not finite at step 4: lower --optimizer\.lr.*from before"):
        train(made, load_records(made.data))
    path = made.run.dir / "checkpoints" / "last.ckpt"
    assert path.exists() == (kept is not None)
    if kept is not None:
        saved = read_checkpoint(path)
        assert saved["global_step"] == kept and tasks.all_finite(saved["state_dict"])


def test_weights_that_are_not_finite_are_not_saved(settings: MakeSettings) -> None:
    """Where the loss was finite still, but its gradient was not."""
    task, _ = task_and_batch(settings("run"))
    task.on_save_checkpoint({})
    task.model.image_projection.weight.data[3, 5] = float("inf")
    with pytest.raises(FloatingPointError, match="weights are not finite"):
        task.on_save_checkpoint({})
