"""Ours and another library's, in turn: seconds, memory, and whether they say the same."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.entry import Entry, gain
from benchmarks.memory import peak_megabytes
from benchmarks.peers import PEERS
from benchmarks.timing import in_turn


@dataclass(frozen=True)
class Contest:
    """Both sides give scores [B, n] of the same n tokens or pixels."""

    what: str
    ours: Callable[[], Tensor]
    other: Callable[[], Tensor]
    note: str = "same method"


def held(contest: Contest, rounds: int) -> Entry:
    """Its row. The ratio is how many times faster ours is."""
    own, theirs = contest.ours().detach().cpu(), contest.other().detach().cpu()  # also warms up
    times = in_turn({"ours": contest.ours, "other": contest.other}, rounds, warm=False)
    figures = {
        "our MB": peak_megabytes(contest.ours),
        "their MB": peak_megabytes(contest.other),
        "difference": difference(own, theirs),
        "rank correlation": rank_correlation(own, theirs),
    }
    return gain(contest.what, times, "ours", "other", note=contest.note, extra=figures)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest, of scores [B, n] divided by each sample's largest absolute one."""
    a, b = (scores.double() / scores.double().abs().amax(dim=1, keepdim=True).clamp(min=1e-30) for scores in (a, b))
    return float((a - b).abs().max())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, the mean over samples [B, n]; ties share their mean rank."""
    a, b = (_ranks(scores.double()) for scores in (a, b))
    a, b = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (a, b))
    return float(((a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)).mean())


def _ranks(scores: Tensor) -> Tensor:
    ordered = scores.sort(dim=1).values
    return (torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)).double() / 2


def contests(name: str, quick: bool) -> list[Contest]:
    """Those of a module of this package; exits with what to install where the peer is missing."""
    try:
        return import_module(f"benchmarks.peers.{name}").contests(quick)
    except ImportError as error:
        sys.exit(f"{error}; pip install {PEERS[name]}, or pip install -e .[bench]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    found = [held(contest, 1 if options.quick else 3) for contest in contests(options.name, options.quick)]
    named = [replace(entry, what=f"{PEERS[options.name]}: {entry.what}") for entry in found]
    print(json.dumps([asdict(entry) for entry in named]))


if __name__ == "__main__":
    main()
