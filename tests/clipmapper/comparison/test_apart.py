"""What the comparison measures apart: cost, sanity, the published order; and how processes find each other."""

from typing import Any

import pytest
import torch

from clipmapper import processes
from clipmapper.comparison import published
from clipmapper.comparison.cost import peak
from clipmapper.processes import World, wait

MB = 2**18  # float32 numbers of one
CPU = torch.device("cpu")


def megabytes(work: Any) -> float:
    return peak(work, CPU) / 2**20


def test_the_peak_is_what_was_alive_at_once() -> None:
    def work() -> None:
        first = torch.zeros(3 * MB)
        second = torch.zeros(5 * MB)
        view = second.view(-1, MB)  # of 8 MB so far, as views are free
        del first, second
        assert view.add_(1).sum() == 5 * MB
        third = torch.zeros(2 * MB)
        del view, third

    assert megabytes(work) == pytest.approx(8, abs=0.001)
    assert megabytes(work) == pytest.approx(8, abs=0.001), "nothing is left from the first time"


def test_the_peak_counts_what_the_backward_pass_needs_and_not_what_was_there() -> None:
    x = torch.ones(4 * MB, requires_grad=True)

    def work() -> None:
        y = x.exp()  # 4, kept for the backward pass
        torch.autograd.grad(y.sum(), x)  # and 4 of the gradient

    assert megabytes(work) == pytest.approx(8, abs=0.001)
    assert megabytes(lambda: None) == 0 == megabytes(lambda: x.add_(0) if not x.requires_grad else None)


def entry(*figures: float | None) -> dict[str, Any]:
    return {"figures": {area: {"mean": mean} for area, mean in zip(published.AREAS, figures, strict=True)}}


def test_the_published_order_is_that_of_the_better_end() -> None:
    ours = {
        "genatt": entry(0.6, 0.1, 0.5, 0.2),
        "rollout": entry(0.5, 0.3, 0.5, 0.1),
        "transatt": entry(0.4, 0.2, 0.5, None),
        "wra": entry(0.9, 0.9, 0.9, 0.9),
        "genatt inverted": entry(0.9, 0.9, 0.9, 0.9),
    }
    areas = published.beside(ours)["areas"]
    negative, positive = areas["image/accuracy/negative"], areas["image/accuracy/positive"]
    ranks = {name: (one["our_rank"], one["published_rank"]) for name, one in negative["methods"].items()}
    assert ranks == {"genatt": (1, 1), "rollout": (2, 3), "transatt": (3, 2)}
    assert negative["spearman"] == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 · 8)
    ranks = {name: (one["our_rank"], one["published_rank"]) for name, one in positive["methods"].items()}
    assert ranks == {"genatt": (1, 1), "rollout": (3, 3), "transatt": (2, 2)}, "lower is better"
    assert positive["spearman"] == pytest.approx(1)
    equal = areas["text/accuracy/negative"]
    assert equal["spearman"] is None and {one["our_rank"] for one in equal["methods"].values()} == {2}
    assert areas["text/accuracy/positive"]["spearman"] == pytest.approx(-1), "what is undefined is left out"
    assert "text/negative -, text/positive -1.00" in published.text(published.beside(ours))


def test_equal_published_figures_share_their_rank() -> None:
    ours = {name: entry(0.5, 0.1 * i, 0.5, 0.5) for i, name in enumerate(("genatt", "genatt_lrp", "rollout"))}
    found = published.beside(ours)["areas"]["image/accuracy/positive"]["methods"]
    assert [one["published_rank"] for one in found.values()] == [1.5, 1.5, 3]
    assert published.beside({"wra": entry(1, 1, 1, 1)}) == {} and published.text({}) == ""


def test_who_and_how_many() -> None:
    assert processes.launched({}) == World(0, 1) == processes.launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}), (
        "sbatch alone"
    )
    assert processes.launched({"RANK": "1", "WORLD_SIZE": "3"}) == World(1, 3)
    assert processes.launched({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}) == World(2, 4)
    shares = [list(World(rank, 3).share(range(8))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert processes.own_device(CPU, {"LOCAL_RANK": "1"}) == CPU


def test_who_is_asked_of_torch_first(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        assert processes.launched({"RANK": "1", "WORLD_SIZE": "3"}) == World(0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_waiting_ends_with_the_last_one_or_without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PAUSE", 0.0)
    counts = iter([1, 1, 2, 2, 3])
    wait(lambda: next(counts), 3, "batches")
    assert not list(counts)
    monkeypatch.setattr(processes, "FILE_PATIENCE", 0.0)
    with pytest.raises(TimeoutError, match=r"2 of 3 batches are there.*with the same --output"):
        wait(lambda: 2, 3, "batches")
