"""The game: each input once, parts of outputs, rows that share samples, a model that must say again what was recorded."""

from collections import namedtuple
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from xai import Target, adapter_for, explain_recording, given, predicted, record
from xai.explainers.banzhaf import banzhaf
from xai.explainers.occlusion import occlusion
from xai.explainers.shapley import shapley
from xai.games.game import Game, game_of
from xai.recording.inputs import part_of
from xai.recording.recording import Recording
from xai.recording.rows import by_rows

from ..adapters.stock import built
from ..conftest import Family, build
from .handmade import Handmade, itself, rough


def recorded(family: Family) -> Recording:
    with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
        family.model(**family.inputs)
    return recorder.recording


def test_every_distinct_input_runs_once_also_across_methods() -> None:
    handmade = Handmade(rough(0, 5), [[1] * 5, [1] * 5])
    shapley(handmade.recording, itself, 32)
    assert len(handmade.asked) == len(set(handmade.asked)) == 62
    for method in (occlusion, banzhaf, shapley):
        method(handmade.recording, itself)
    assert len(handmade.asked) == 62 and game_of(handmade.recording, itself).runs == 64  # with the whole ones
    occlusion(handmade.recording, lambda output: output)
    assert len(handmade.asked) == 62 + 10  # of another target


def test_values_are_in_the_order_of_what_was_asked() -> None:
    value = rough(1, 4)
    game = Game(Handmade(value, [[1] * 4, [1] * 4]).recording, itself, at_once=3)
    keep = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    samples = torch.randint(2, (40,), generator=torch.Generator().manual_seed(1))
    expected = [
        value(frozenset(row.nonzero()[:, 0].tolist()), sample)
        for row, sample in zip(keep, samples.tolist(), strict=True)
    ]
    torch.testing.assert_close(game(keep, samples)[:, 0], torch.tensor(expected, dtype=torch.float64))


Pair = namedtuple("Pair", "logits state")


@dataclass
class Output(ModelOutput):
    logits: Tensor | None = None
    logits_per_image: Tensor | None = None
    scale: Tensor | None = None
    states: tuple[Tensor, ...] | None = None


def test_parts_of_outputs() -> None:
    x, index = torch.arange(12.0).reshape(4, 3), torch.tensor([3, 1])
    assert torch.equal(part_of(x, index, 4), x[[3, 1]])
    assert torch.equal(part_of((x, "no tensor"), index, 4)[0], x[[3, 1]])
    assert torch.equal(part_of([x], index, 4)[0], x[[3, 1]])
    pair = part_of(Pair(x, x + 1), index, 4)
    assert isinstance(pair, Pair) and torch.equal(pair.state, x[[3, 1]] + 1)
    square = torch.arange(16.0).reshape(4, 4)
    named = part_of({"logits_per_image": square, "scale": torch.tensor(2.0), "other": x[:3]}, index, 4)
    assert torch.equal(named["logits_per_image"], square[[3, 1]][:, [3, 1]])
    assert named["scale"] == 2 and torch.equal(named["other"], x[:3])
    output = part_of(Output(logits=x, logits_per_image=square, scale=torch.tensor(1.0), states=(x, x)), index, 4)
    assert isinstance(output, Output) and torch.equal(output["logits"], x[[3, 1]])
    assert torch.equal(output["logits_per_image"], square[[3, 1]][:, [3, 1]])
    assert [torch.equal(state, x[[3, 1]]) for state in output["states"]] == [True, True]


def test_the_probability_is_what_is_looked_at() -> None:
    family = build("bert")
    recording, target = recorded(family), given(torch.tensor([1, 2]))
    logits = family.model(**family.inputs).logits.detach()
    torch.testing.assert_close(Game(recording, target).whole[:, 0], logits.softmax(-1)[[0, 1], [1, 2]])
    plain = Target("logit", target.score)
    torch.testing.assert_close(Game(recording, plain).whole[:, 0], logits[[0, 1], [1, 2]])
    best = logits.argmax(-1)
    assert torch.equal(occlusion(recording, predicted()), occlusion(recording, given(best)))  # its class stays


@pytest.mark.parametrize("name", ["bert", "vit", "lxmert", "open_clip", "clip"])
def test_a_word_or_region_left_out_is_one_that_the_model_s_own_mask_hides(name: str) -> None:
    """Of models that take a mask; patches of those that take none are compared in tests/xai/recording/test_hidden.py."""
    family = build(name)
    recording = recorded(family)
    found = occlusion(recording, family.target)
    value = getattr(family.target, "probability", None) or family.target
    arguments = {"text": "attention_mask", "regions": "visual_attention_mask", "image": "visual_attention_mask"}
    for modality, where in recording.modalities.items():
        argument = arguments[modality]
        content = (recording.mask & ~recording.special)[:, where]
        if argument not in family.inputs:
            assert found[:, where][content].any()
            continue
        for place in content.any(dim=0).nonzero()[:, 0].tolist():
            inputs = {**family.inputs, argument: family.inputs[argument].clone()}
            inputs[argument][:, place] = 0
            with torch.no_grad():
                loss = (value(recording.output) - value(family.model(**inputs))).detach()
            torch.testing.assert_close(found[:, where][:, place], loss * content[:, place])
    assert not found[~(recording.mask & ~recording.special)].any()


def test_a_model_that_does_not_say_again_what_was_recorded() -> None:
    handmade = Handmade(rough(3, 4), [[1] * 4])
    wrong = replace(handmade.recording, output=handmade.recording.output + 1)
    with pytest.raises(ValueError, match="run again on the whole input, does not say what was recorded"):
        shapley(wrong, itself)


def test_a_target_that_is_not_finite_without_a_token() -> None:
    handmade = Handmade(lambda S, sample: 1.0 if 2 in S else torch.inf, [[1] * 3])
    with pytest.raises(ValueError, match="not finite where tokens are taken away"):
        occlusion(handmade.recording, itself)


@pytest.mark.parametrize("method", ["occlusion", "shapley", "banzhaf", "rise", "mm_shap"])
def test_words_of_a_text_are_rows_of_one_game(method: str) -> None:
    """As each by itself: of two samples the first has two rows. Tokens that a row is read from always stay."""
    family = built("LLaVA")
    recording = recorded(family)
    sample, labels = torch.tensor([0, 1, 0]), torch.tensor([5, 7, 9])
    rows = by_rows(recording, sample)
    options: dict[str, Any] = {} if method == "occlusion" else {"budget": 24}

    def score(outputs: Any) -> Tensor:
        return outputs.logits[sample, -1, labels]

    target = Target(
        "rows", score, probability=lambda o: o.logits[sample, -1].softmax(-1).gather(1, labels[:, None])[:, 0]
    )
    found = explain_recording(rows, method, target, **options)
    runs = game_of(rows, target).runs
    for row in range(3):
        number, label = int(sample[row]), int(labels[row])
        one = {name: values[number : number + 1] for name, values in family.inputs.items()}
        with record(family.model, adapter_for(family.model, family.inputs)) as recorder:
            family.model(**one)
        alone = by_rows(recorder.recording, torch.tensor([0]))
        own = Target(
            "row",
            lambda o, k=label: o.logits[:, -1, k],
            probability=lambda o, k=label: o.logits[:, -1].softmax(-1)[:, k],
        )
        expected = explain_recording(alone, method, own, **options).scores
        for modality, scores in expected.items():
            torch.testing.assert_close(found.scores[modality][row], scores[0], rtol=1e-4, atol=1e-6)
            assert scores.any()
    assert runs <= 2 * (game_of(alone, own).runs)  # the two rows of the first sample share their runs
    assert not found.scores["text"][:, -1].any()  # what is read
