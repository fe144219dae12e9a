"""How figures are made: ratios, verdicts, order of runs, agreement, the table, the files."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import BENCHMARKS, main, save
from benchmarks.entry import Entry, Target, cost, gain
from benchmarks.growth import exponent
from benchmarks.memory import CLEAR, peak_megabytes
from benchmarks.peers.contest import contests, difference, rank_correlation
from benchmarks.table import line
from benchmarks.timing import in_turn

TIMES = {"a": [1.0, 2.0, 8.0], "b": [2.0, 2.0, 2.0]}


def test_a_cost_is_ours_by_other_and_a_gain_the_other_way_round() -> None:
    paid, won = cost("", TIMES, "a", "b", 1.5), gain("", TIMES, "a", "b", 1.5)
    assert (paid.ratio, paid.spread) == (1.0, (0.5, 4.0))  # of pairs 0.5, 1, 4
    assert (won.ratio, won.spread) == (1.0, (0.25, 2.0))
    assert (paid.ours, paid.other) == (2.0, 2.0)
    assert (paid.verdict(quick=False), won.verdict(quick=False)) == ("met", "missed")


def test_the_median_is_of_pairs_not_of_sides() -> None:
    times = {"a": [1.0, 10.0, 100.0], "b": [1.0, 1.0, 200.0]}
    assert cost("", times, "a", "b").ratio == 1.0  # pairs 1, 10, 0.5; medians of the sides would give 10


def test_a_quick_run_claims_nothing() -> None:
    assert cost("", TIMES, "a", "b", 1.5).verdict(quick=True) == "smoke"
    assert cost("", TIMES, "a", "b").verdict(quick=False) == "-"


@pytest.mark.parametrize(("relation", "verdicts"), [("<=", (True, True, False)), (">=", (False, True, True))])
def test_a_target_is_met_at_its_bound(relation: str, verdicts: tuple[bool, ...]) -> None:
    target = Target(relation, 2.0)  # type: ignore[arg-type]
    assert tuple(map(target.met, (1.9, 2.0, 2.1))) == verdicts


def test_runs_alternate_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []
    times = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)  # type: ignore[misc]
    assert "".join(order) == "baabba"
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


@pytest.mark.skipif(not CLEAR.exists(), reason="Linux counts it")
def test_peak_memory_sees_what_is_freed_again() -> None:
    def use() -> None:
        torch.ones(40 * 2**20 // 4).sum()  # 40 MB

    use()
    peak = peak_megabytes(use)
    assert peak is not None
    assert 39 < peak < 60


def test_difference_and_rank_ignore_scale() -> None:
    a = torch.tensor([[1.0, -2.0, 4.0]])
    assert difference(a, 10 * a) == pytest.approx(0)
    assert difference(a, torch.tensor([[2.0, -4.0, 4.0]])) == pytest.approx(0.5)  # -1 there, -0.5 here
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[1.0, 2.0, 3.0]])) == pytest.approx(
        math.sqrt(0.75)
    )


def test_exponent_of_a_square() -> None:
    assert exponent([(n, 3.0 * n**2, math.nan) for n in (2, 5, 11)]) == pytest.approx(2)


def test_a_line_says_all_of_an_entry() -> None:
    shown = line("lrp", cost("x / y", TIMES, "a", "b", 1.5, note="why", extra={"their MB": 3.0, "our MB": None}), False)
    for part in ("lrp", "x / y", "2 s", "1.00 x [0.50, 4.00]", "<= 1.5", "met", "why; their MB 3"):
        assert part in shown
    assert "None" not in shown
    assert "1.5 %" in line("b", Entry("share", unit="", ratio=0.015), False)


def test_results_and_plots_are_written(tmp_path: Path) -> None:
    grown = [
        Entry(f"{name} / other, 2 layers", 4.0, 2.0, axis="layers", points=((1, 2.0, 1.0), (2, 4.0, 2.0)))
        for name in "ab"
    ]
    save(tmp_path, {"quick": False, "threads": 1}, {"growth": [*grown, cost("c", TIMES, "a", "b", 1.5)]})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["machine"]["threads"] == 1
    assert [entry["verdict"] for entry in results["results"]["growth"]] == ["-", "-", "met"]
    assert results["results"]["growth"][2]["target"] == "<= 1.5"
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lpr"])
    assert "no benchmark lpr" in (shown := capsys.readouterr().err)
    assert all(name in shown for name in BENCHMARKS)


def test_a_failing_benchmark_is_a_row_and_the_others_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(quick: bool) -> list[Entry]:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("benchmarks.lrp.run", broken)
    monkeypatch.setattr("benchmarks.recording.run", lambda quick: [Entry("fine", 1.0)])
    assert main(["lrp", "recording", "--quick", "--output", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "no such luck" in results["lrp"][0]["note"]
    assert results["recording"][0]["what"] == "fine"


def test_a_missing_peer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("No module named 'lxt'")

    monkeypatch.setattr("benchmarks.peers.contest.import_module", missing)
    with pytest.raises(SystemExit, match=r"No module named 'lxt'; pip install lxt, or pip install -e .\[bench\]"):
        contests("with_lxt", quick=True)
