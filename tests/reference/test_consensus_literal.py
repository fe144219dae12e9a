"""The consensus of four ways of carrying relevance back, token by token, from relevances made by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from xai.explainers.consensus import consensus, likelihood_ratio
from xai.explainers.input_gradient import input_gradient
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.relevances import Relevances
from xai.recording.axis import index_of
from xai.recording.recording import Recording

GAMMA = 0.5


def filled(recording: Recording, target: Any, seed: int) -> Recording:
    """The recording with padding, a special token, and relevances by all tables; those of the last have no negative one."""
    generator = torch.Generator().manual_seed(seed)
    mask, special = torch.ones_like(recording.mask), torch.zeros_like(recording.mask)
    mask[1, -1], special[:, 0] = False, True
    found = {}
    for rules in (ATTN_LRP, CP_LRP, with_gamma(CP_LRP, GAMMA)):
        tokens = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        found[target, rules] = Relevances({}, tokens.abs() if rules.linear != ATTN_LRP.linear else tokens, None)
    return replace(recording, mask=mask, special=special, relevances=found)


def slow_ratio(R: list[float], content: list[bool], token: int) -> float:
    inside = [r for r, counts in zip(R, content, strict=True) if counts]
    positive, negative = sum(r for r in inside if r > 0), -sum(r for r in inside if r < 0)
    if positive <= negative:
        return 1.0  # nothing is believed
    belief = (positive - negative) / (positive + negative)
    return belief * len(inside) * max(R[token], 0) / positive + (1 - belief)


@pytest.mark.parametrize("order", ["single", "towers", "co-attention"])
@pytest.mark.parametrize("seed", range(4))
def test_consensus(make_tape: Any, target: Any, order: str, seed: int) -> None:
    recording = filled(make_tape(order, seed), target, seed)
    tables = [relevances.tokens for relevances in recording.relevances.values()]
    tables = [input_gradient(recording, target), *tables]
    scores = consensus(recording, target, gamma=GAMMA)
    for sample in range(2):
        for where in recording.modalities.values():
            places = index_of(where).tolist()
            content = [bool(recording.mask[sample, i]) and not bool(recording.special[sample, i]) for i in places]
            for token, place in enumerate(places):
                odds = 1 / sum(content)
                for R in tables:
                    odds *= slow_ratio(R[sample, where].tolist(), content, token)
                assert float(scores[sample, place]) == pytest.approx(odds / (1 + odds), rel=1e-9, abs=1e-12)


CONTENT = torch.tensor([[True, True, True, False]])


def ratio(*R: float) -> list[float]:
    return likelihood_ratio(torch.tensor([R], dtype=torch.float64), CONTENT)[0].tolist()


def test_relevance_that_does_not_cancel_is_believed() -> None:
    assert ratio(1, 2, 3, 0) == pytest.approx([0.5, 1, 1.5, 0])


def test_relevance_that_cancels_says_nothing() -> None:
    assert ratio(1, -2, 1, 5) == ratio(-1, -2, -1, 5) == ratio(0, 0, 0, 5) == [1, 1, 1, 1]


def test_half_of_it_cancels() -> None:
    assert ratio(3, -1, 0, 0) == pytest.approx([0.5 * 3 + 0.5, 0.5, 0.5, 0.5])


def test_the_unit_of_relevance_does_not_matter_and_its_sign_does() -> None:
    R = (0.2, -0.1, 0.4, 0.3)
    assert ratio(*(7 * r for r in R)) == pytest.approx(ratio(*R))
    assert ratio(*(-r for r in R)) == [1, 1, 1, 1]


def test_over_the_content_the_mean_is_one() -> None:
    """So that a token is favoured only at the cost of others."""
    assert sum(ratio(0.2, -0.1, 0.4, 0.3)[:3]) / 3 == pytest.approx(1)


def test_a_token_that_one_way_rules_out_has_no_score(make_tape: Any, target: Any) -> None:
    recording = filled(make_tape("single", 0), target, 0)
    last = recording.relevances[target, with_gamma(CP_LRP, GAMMA)].tokens
    last[0, 1] = 0
    scores = consensus(recording, target, gamma=GAMMA)
    assert scores[0, 1] == 0 < scores[0, 2]


def test_without_any_relevance_all_are_alike(make_tape: Any, target: Any) -> None:
    recording = filled(make_tape("single", 0, scale=0.0), target, 0)
    nothing: dict[Any, Any] = {key: Relevances({}, torch.zeros(2, 3).double(), None) for key in recording.relevances}
    scores: Tensor = consensus(replace(recording, relevances=nothing), target, gamma=GAMMA)
    torch.testing.assert_close(scores[0], torch.full((3,), 1 / 3).double())  # two content tokens: odds of 1 to 2
