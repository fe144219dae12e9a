"""What only a GPU can show: bf16 and compiled training there, the CPU's relevance, no step that waits for the device."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmapper import CLIPMapper
from clipmapper.benchmark.measure import explain_batch, measure
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.cli import Settings
from clipmapper.data.records import load_captions, load_records
from clipmapper.data.vqa import VQAData
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.checkpoints import read_checkpoint
from clipmapper.models.clip import FrozenCLIP
from clipmapper.training.optimizer import make_optimizer
from clipmapper.training.run import task_and_data, train
from clipmapper.training.tasks import all_finite

from .test_run import EPOCH, logged

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
ON_GPU = ("--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--run.examples=0")
METHODS = ("raw_attention", "rollout", "genatt", "wra", "transatt", "attn_lrp")
MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Convolutions in float32, not TF32, to compare them with those of the CPU."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def losses(made: Settings) -> list[float]:
    """Trains, and gives the loss of each step."""
    train(made, load_records(made.data))
    return list(logged(made.run.dir, "train/loss").values())


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (("--trainer.precision=32-true",), 1e-3),
        (("--trainer.precision=bf16-mixed",), 3e-2),
        (("--run.compile=true",), 1e-3),
    ],
)
def test_training_has_the_losses_of_the_cpu(settings: MakeSettings, options: tuple[str, ...], tolerance: float) -> None:
    expected = losses(settings("cpu", "--trainer.max_epochs=1", "--run.examples=0", "--model.dropout=0"))
    made = settings("gpu", *ON_GPU, *options, "--model.dropout=0")
    found = losses(made)
    assert len(found) == EPOCH and found == pytest.approx(expected, rel=tolerance)
    assert all_finite(read_checkpoint(made.run.dir / "checkpoints" / "best.ckpt")["state_dict"])


def test_the_cache_is_filled_by_the_gpu(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: set[str] = set()
    encode = FrozenCLIP.image_tokens

    def watched(self: FrozenCLIP, pixels: Tensor) -> Tensor:
        seen.add(pixels.device.type)
        return encode(self, pixels)

    monkeypatch.setattr(FrozenCLIP, "image_tokens", watched)
    losses(settings("run", *ON_GPU, f"--data.cache={tmp_path / 'features'}"))
    assert seen == {"cuda"}


@pytest.mark.parametrize("options", [(), ("--model.mapper=a", "--optimizer.name=muon"), ("--model.task=caption",)])
def test_no_step_waits_for_the_device(settings: MakeSettings, options: tuple[str, ...]) -> None:
    made = settings("run", *options)
    records = (load_captions if made.model.task == "caption" else load_records)(made.data)
    task, data = task_and_data(made, records)
    task.to("cuda").log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    task.on_train_start()
    optimizer = make_optimizer(task.model, made.optimizer)
    batch = {name: value.to("cuda") for name, value in data.train[[0, 7, 50]].items()}

    def step(batch_idx: int) -> Tensor:
        task.on_train_batch_start(batch, batch_idx)
        with torch.autocast("cuda", torch.bfloat16):
            loss = task.training_step(batch, batch_idx)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step(0)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step(1)
        with pytest.raises(RuntimeError, match="synchroniz"):
            loss.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_relevance_and_perturbation_are_those_of_the_cpu(shapes_root: Path, settings: MakeSettings) -> None:
    model = CLIPMapper.from_pretrained("shapes-b-vqa")
    made = settings("run", "--data.cache=null")
    questions = VQAData(load_records(made.data), made.data, model.clip, 0).val
    results, relevances, config = {}, {}, BenchmarkConfig()
    for device in ("cpu", "cuda"):
        task = AnswersTask(MapperModel(model.to(device)), questions, list(range(8)), config, None)
        batch = task.batch(range(8))
        relevances[device] = explain_batch(task, batch, METHODS).relevances()
        results[device] = measure(task, range(8), METHODS, config)
        assert not results[device].errors
    assert results["cuda"].samples["predicted"] == results["cpu"].samples["predicted"]
    for name in METHODS:
        for modality, scores in relevances["cpu"][name].scores.items():
            other = relevances["cuda"][name].scores[modality].cpu()
            assert torch.allclose(other, scores, rtol=1e-2, atol=1e-3 * float(scores.abs().max())), (name, modality)
    for key, values in results["cpu"].values.items():
        difference = np.abs(results["cuda"].values[key] - values).mean()
        assert difference < 0.01, f"{key}: a token or two may change places, not the curves"
