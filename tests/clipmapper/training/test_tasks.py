"""The learning rate by hand, what is trained, and what a checkpoint must agree in."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clipmapper.config import ModelConfig, OptimizerConfig
from clipmapper.data.batches import Batch
from clipmapper.models.checkpoints import check_checkpoint
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.heads import soft_label_loss
from clipmapper.training.tasks import LOOK_EVERY, VQATask

ANSWERS = ["yes", "no", "red"]


def make(answers: list[str] = ANSWERS, **options: Any) -> CLIPMapper:
    torch.manual_seed(0)
    return CLIPMapper(ModelConfig(SHAPES_CLIP, None, **{"width": 16, "heads": 2, "layers": 1, **options}), answers)


def task(model: CLIPMapper) -> VQATask:
    return VQATask(model, OptimizerConfig(lr=0.5, betas=(0.8, 0.95)), seed=3, extra={"data": {"root": "x"}})


def saved(model: CLIPMapper) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {}
    task(model).on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture
def batch(tokens: Tensor) -> Batch:
    ids, mask = make().clip.tokenize(["Is it red?", "How many?", "What color is the small star?"])
    return {
        "image": tokens,
        "ids": ids,
        "mask": mask,
        "scores": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.9]]),
        "answer_type": torch.tensor([0, 1, 2]),
        "row": torch.tensor([7, 8, 9]),
        "skipped": torch.tensor(0),
    }


def test_loss_of_a_step(batch: Batch) -> None:
    model = make(dropout=0.0)
    vqa = task(model)
    vqa.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    expected = soft_label_loss(model(batch["image"], batch["ids"], batch["mask"]), batch["scores"])
    assert vqa.training_step(batch, 0).equal(expected)


def test_pixels_and_tokens_give_the_same(small_clip: Any, batch: Batch) -> None:
    vqa = task(make().eval())
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(vqa.logits({**batch, "image": pixels}), vqa.logits(batch), atol=1e-5)


def test_cached_half_precision_tokens_are_accepted(batch: Batch) -> None:
    vqa = task(make().eval())
    half = vqa.logits({**batch, "image": batch["image"].half()})
    assert half.dtype == torch.float32 and torch.allclose(half, vqa.logits(batch), atol=2e-2)


@pytest.mark.parametrize("read", ["image", "text"])
@pytest.mark.parametrize("mapper", ["a", "b"])
@pytest.mark.parametrize("sees", ["both", "question", "image"])
def test_gradients_reach_all_that_is_trained(batch: Batch, mapper: str, read: str, sees: str) -> None:
    """ddp would wait for a gradient that does not come."""
    model = make(dropout=0.0, layers=2, mapper=mapper, read=read, sees=sees)
    soft_label_loss(task(model).logits(batch), batch["scores"]).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None and not name.startswith("clip.")}
    assert all(p.grad is None for p in model.clip.parameters())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert (mapper == "a") == (not without), "only B has a stream that is not read"


def test_optimizer_has_the_mapper_alone(batch: Batch) -> None:
    vqa = task(make())
    vqa._trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()  # type: ignore[assignment]
    chosen: Any = vqa.configure_optimizers()
    optimizer = chosen["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in vqa.parameters() if p.requires_grad}
    assert not trained & {id(p) for p in vqa.model.clip.parameters()}
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["betas"] == (0.8, 0.95)
    assert chosen["lr_scheduler"]["interval"] == "step"


def test_dropout_depends_on_seed_step_and_batch_alone(batch: Batch) -> None:
    vqa = task(make(dropout=0.5))
    drawn = []
    for batch_idx in (0, 1, 0):
        torch.rand(5)  # whatever happened before
        vqa.on_train_batch_start(batch, batch_idx)
        drawn.append(vqa.logits(batch))
    assert drawn[0].equal(drawn[2]) and not drawn[0].equal(drawn[1])


def test_loss_that_is_not_finite_stops_with_advice(batch: Batch) -> None:
    vqa = task(make())
    for batch_idx, scores in enumerate((batch["scores"], batch["scores"] * math.nan, batch["scores"])):
        vqa.training_step({**batch, "scores": scores}, batch_idx)
        vqa.on_train_batch_end(None, batch, batch_idx)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite at step 0: lower --optimizer\.lr"):
        vqa.on_train_batch_end(None, batch, LOOK_EVERY - 1)


def test_predictions_carry_their_rows(batch: Batch) -> None:
    vqa = task(make().eval())
    rows, labels = vqa.predict_step(batch, 0)
    assert rows.tolist() == [7, 8, 9] and labels.equal(vqa.logits(batch).argmax(1))


def test_checkpoint_rebuilds_the_model(batch: Batch) -> None:
    model = make(mapper="a", read="text").eval()
    checkpoint = saved(model)
    assert not any(".clip." in name for name in checkpoint["state_dict"])
    assert checkpoint["clipmapper"]["extra"] == {"data": {"root": "x"}}
    again = CLIPMapper._of_checkpoint(checkpoint, "here.ckpt")
    assert again.answers == ANSWERS and not again.training
    assert task(again).logits(batch).equal(task(model).logits(batch))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"mapper": "a"}, r"x\.ckpt: model\.mapper is 'a' there and 'b' here"),
        ({"layers": 2}, r"x\.ckpt: model\.layers is 2 there and 1 here"),
        ({"sees": "image"}, r"x\.ckpt: model\.sees is 'image' there and 'both' here"),
        ({"answers": ["yes", "no"]}, r"x\.ckpt knows 2 answers, this run's data has 3"),
        ({"answers": ["no", "yes", "red"]}, r"x\.ckpt knows 3 answers, this run's data has 3 or others"),
    ],
)
def test_other_models_are_refused(other: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_checkpoint(saved(make(**other)), make(), "x.ckpt")


def test_other_clip_weights_are_refused() -> None:
    checkpoint = saved(make())
    checkpoint["clipmapper"]["clip_fingerprint"] = "f" * 16
    with pytest.raises(ValueError, match=r"x\.ckpt was trained over another CLIP"):
        check_checkpoint(checkpoint, make(), "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt was trained over another CLIP"):
        CLIPMapper._of_checkpoint(checkpoint, "x.ckpt")


def test_dropout_may_change() -> None:
    check_checkpoint(saved(make(dropout=0.3)), make(dropout=0.0), "x.ckpt")


@pytest.mark.parametrize("broken", [{}, {"clipmapper": 3}, {"clipmapper": {"format": 99}}])
def test_foreign_checkpoints_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"x\.ckpt is not a checkpoint of CLIPmapper"):
        CLIPMapper._of_checkpoint(broken, "x.ckpt")


def test_checkpoint_without_a_weight_is_refused() -> None:
    checkpoint = copy.deepcopy(saved(make()))
    del checkpoint["state_dict"]["model.head.4.bias"]
    with pytest.raises(ValueError, match=r"x\.ckpt is of another model .*'head\.4\.bias'"):
        CLIPMapper._of_checkpoint(checkpoint, "x.ckpt")
