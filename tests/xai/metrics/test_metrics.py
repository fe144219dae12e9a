from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from xai.metrics.metrics import PerSample, PerturbationAUC
from xai.metrics.protocols import area, named

PROTOCOL = named("genatt", "image")


def curves(samples: list[int]) -> Tensor:
    """Random, but a function of the sample."""
    each = [torch.rand(2, 2, 9, generator=torch.Generator().manual_seed(i)) for i in samples]
    return torch.stack(each, dim=2) if each else torch.zeros(2, 2, 0, 9)


def of(*batches: list[int]) -> PerturbationAUC:
    metric = PerturbationAUC(["a", "b"], PROTOCOL)
    for batch in batches:
        metric.update(curves(batch), torch.tensor(batch, dtype=torch.long))
    return metric


def check(found: PerSample, samples: list[int]) -> None:
    assert found.samples.tolist() == samples
    assert torch.equal(found.curves.float(), curves(samples))
    assert torch.allclose(found.areas.float(), area(curves(samples), PROTOCOL.shares))
    assert torch.allclose(found.srg, found.areas[:, 1] - found.areas[:, 0])


def test_samples_are_kept_each_once_by_id() -> None:
    check(of([3, 2_000_000_007], [1, 3]).per_sample(), [1, 3, 2_000_000_007])
    check(of([], [2]).per_sample(), [2])


def test_ids_of_the_size_of_question_ids_are_exact() -> None:
    ids = torch.tensor([581_929_012, 581_929_013])
    metric = PerturbationAUC(["a", "b"], PROTOCOL)
    metric.update(curves([0, 1]), ids)
    assert torch.equal(metric.per_sample().samples, ids)


def test_means_leave_undefined_samples_out_and_count_them() -> None:
    metric, bad = of([0]), curves([1, 2])
    bad[1, 0, 1] = torch.nan
    metric.update(bad, torch.tensor([1, 2]))
    found = {name: float(value) for name, value in metric.compute().items()}
    expected = area(curves([0, 1, 2]), PROTOCOL.shares).double()
    assert (found["a/undefined"], found["b/undefined"]) == (0, 1)
    assert found["a/positive"] == pytest.approx(float(expected[0, 0].mean()))
    assert found["a/negative"] == pytest.approx(float(expected[0, 1].mean()))
    assert found["b/positive"] == pytest.approx(float(expected[1, 0, :2].mean()))
    assert found["b/srg"] == pytest.approx(float((expected[1, 1] - expected[1, 0])[:2].mean()))


def test_reset_and_wrong_shapes() -> None:
    metric = of([0, 1])
    metric.reset()
    metric.update(curves([2]), torch.tensor([2]))
    check(metric.per_sample(), [2])
    with pytest.raises(ValueError, match=r"\[2, 2, 1, 9\], got \[2, 2, 2, 9\]"):
        metric.update(curves([0, 1]), torch.tensor([2]))


def process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    uneven = of([5, 2], [9]) if rank == 0 else of([2, 4])  # 2 twice, as a sampler that fills up the last batch does
    check(uneven.per_sample(), [2, 4, 5, 9])
    lonely = of([5, 2]) if rank == 0 else of()
    check(lonely.per_sample(), [2, 5])
    assert lonely.compute()["a/srg"] == of([2, 5]).per_sample().srg[0].mean()
    dist.destroy_process_group()
    (folder / f"passed {rank}").touch()


@pytest.mark.slow
def test_processes_together_give_the_figures_of_one(tmp_path: Path) -> None:
    mp.spawn(process, (tmp_path,), nprocs=2)
    assert len(list(tmp_path.glob("passed *"))) == 2
