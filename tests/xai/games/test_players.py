"""Who plays: content tokens or squares of patches, in games of their own or in one; what always stays."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from xai import adapter_for, record
from xai.explainers.banzhaf import banzhaf
from xai.explainers.rise import rise
from xai.explainers.shapley import shapley
from xai.games.players import Players, each_game, players_of
from xai.recording.recording import Recording

from ..adapters.stock import built
from .handmade import Handmade, itself, rough

TWO = {"image": slice(0, 7), "text": slice(7, 11)}
SPECIAL = [[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]]
MASK = [[1] * 11, [1] * 9 + [0, 0]]


def two() -> Recording:
    return Handmade(rough(0, 11), MASK, SPECIAL, TWO, {"image": (2, 3)}).recording


def test_content_tokens_play_a_game_for_each_modality() -> None:
    image, text = players_of(two(), itself)
    assert image.of.tolist() == 2 * [[-1, 0, 1, 2, 3, 4, 5, -1, -1, -1, -1]] and image.counts == [6, 6]
    assert text.of.tolist() == [[-1] * 8 + [0, 1, 2], [-1] * 8 + [0, -1, -1]] and text.counts == [3, 1]


def test_all_modalities_in_one_game() -> None:
    (both,) = players_of(two(), itself, together=True)
    assert both.of.tolist() == [
        [-1, 0, 1, 2, 3, 4, 5, -1, 6, 7, 8],
        [-1, 0, 1, 2, 3, 4, 5, -1, 6, -1, -1],
    ]
    assert both.counts == [9, 7]


def test_squares_of_patches() -> None:
    image, text = players_of(two(), itself, block=2)
    assert image.of[0, 1:7].tolist() == [0, 0, 1, 0, 0, 1] and image.counts == [2, 2]
    assert text.counts == [3, 1]
    (whole, _) = players_of(two(), itself, block=5)
    assert whole.counts == [1, 1]
    words, _ = players_of(two(), itself, block="words")
    assert words.counts == [6, 2]  # three words: two rows of squares; one word: one row, of two by two and what is left
    with pytest.raises(ValueError, match="block is 0; give at least 1, or 'words'"):
        players_of(two(), itself, block=0)


def test_tokens_made_from_patches_neither_play_nor_count_as_words() -> None:
    family = built("LLaVA")
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    recording = recorder.recording
    image, text = players_of(recording, family.target, block="words")
    assert image.counts == [4, 4] and text.counts == [4, 4]  # four words, so a side of two
    assert (image.of[:, recording.modalities["image tokens"]] == -1).all()
    assert (text.of[:, recording.modalities["image tokens"]] == -1).all()


def test_patches_without_a_grid_play_one_by_one() -> None:
    """Where some of a grid are padding it is no grid."""
    mask = [[1] * 11, [1] * 6 + [0] + [1] * 4]
    recording = Handmade(rough(0, 11), mask, SPECIAL, TWO, {"image": (2, 3)}).recording
    image, _ = players_of(recording, itself, block=2)
    assert image.counts == [2, 5]


def test_nobody_plays() -> None:
    handmade = Handmade(rough(0, 3), [[1, 1, 0]], [[1, 1, 0]])
    with pytest.raises(ValueError, match="no token can be taken away"):
        players_of(handmade.recording, itself)


def test_masks_of_players_on_the_joint_axis() -> None:
    players = Players(torch.tensor([[-1, 0, 0, 1, -1]]), [2])
    keep = players.keep(0, torch.tensor([[False, True], [True, False], [False, False]]))
    assert keep.int().tolist() == [[1, 0, 0, 1, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1]]
    scores = torch.tensor([[9.0, 1.0, 2.0, 4.0, 9.0], [0.0, 1.0, 1.0, 1.0, 0.0]])
    assert players.sums(0, scores).tolist() == [[3.0, 2.0], [4.0, 1.0]]
    laid = players.laid(0, torch.tensor([[3.0, 2.0], [4.0, 1.0]]))
    assert laid.tolist() == [[0, 1.5, 1.5, 4, 0], [0, 1, 1, 1, 0]]


def test_what_stays_is_in_every_input() -> None:
    handmade = Handmade(rough(1, 11), MASK, SPECIAL, TWO, {"image": (2, 3)})
    for method in (shapley, rise, partial(banzhaf, together=True)):
        method(handmade.recording, itself, 40)
    for stay, sample in handmade.asked:
        assert {0, 7} <= stay  # special
        assert sample == 0 or {9, 10} <= stay  # padding, which the model's own mask hides
    alone = [stay for stay, _ in handmade.asked if stay >= set(range(7))]
    assert any(stay < set(range(11)) for stay in alone)  # words alone are taken away, too


TOGETHER = [partial(method, together=True) for method in (shapley, banzhaf)]


@pytest.mark.parametrize("method", [shapley, rise, banzhaf, *TOGETHER])
def test_a_sample_s_scores_do_not_depend_on_its_batch(method: Any) -> None:
    value = rough(2, 11)
    both = method(Handmade(value, MASK, SPECIAL, TWO, {"image": (2, 3)}).recording, itself, 30)
    for sample in (0, 1):
        own = Handmade(
            lambda S, _, sample=sample: value(S, sample), [MASK[sample]], [SPECIAL[sample]], TWO, {"image": (2, 3)}
        )
        alone = method(own.recording, itself, 30)
        torch.testing.assert_close(both[sample], alone[0], rtol=1e-9, atol=1e-12)
    assert both[1, 8] != 0 and not both[1, 9:].any()


def test_the_budget_is_shared_by_games() -> None:
    assert each_game(two(), itself, 9) == 4 and each_game(two(), itself, 9, together=True) == 9
    with pytest.raises(ValueError, match="budget is 7; give at least 8, 4 for each of 2 games"):
        each_game(two(), itself, 7, least=4)
    queries = Handmade(rough(0, 3), [[1, 1, 1]], [[0, 0, 1]], {"image": slice(0, 2), "queries": slice(2, 3)}).recording
    assert each_game(queries, itself, 9) == 9  # queries are no content
    with pytest.raises(ValueError, match="no token can be taken away: none is content"):
        each_game(Handmade(rough(0, 1), [[1]], [[1]]).recording, itself, 9)


def test_a_recording_that_cannot_run_its_model() -> None:
    with pytest.raises(ValueError, match="cannot run its model without tokens"):
        shapley(replace(two(), without=None), itself)
