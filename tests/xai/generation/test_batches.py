"""Several prompts in one pass: padding, repeated samples, and greedy texts from guesses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from xai.generation.batches import Prompts, after, greedy, prompts_of

from .families import loaded, picture

TEXTS = ["ein Hund", "ein Hund ist ein Hund"]


def table(seed: int = 0) -> Tensor:
    """Scores of each token after each other: a model with a memory of one token, in which 0 ends a text."""
    return torch.randn(12, 12, generator=torch.Generator().manual_seed(seed))


def counted(scores: Tensor, passes: list[int]) -> Any:
    def run(arguments: Any, samples: Tensor) -> Tensor:
        passes.append(len(samples))
        return scores[arguments["input_ids"]]

    return run


def prompts(room: int = 6) -> Prompts:
    ids = torch.tensor([[3, 0, 0, 0, 0, 0, 0, 0], [5, 4, 0, 0, 0, 0, 0, 0]])
    return Prompts({"input_ids": ids}, "input_ids", torch.tensor([1, 2]), room, {"input_ids": 1}, [[3], [5, 4]])


def by_hand(scores: Tensor, last: int, room: int, never: set[int]) -> list[int]:
    text = list[int]()
    while len(text) < room:
        allowed = scores[last].clone()
        allowed[list(never)] = -torch.inf
        last = int(allowed.argmax())
        text.append(last)
        if last == 0:
            break
    return text


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("never", [set[int](), {7, 2}])
def test_greedy_texts_are_those_of_one_token_after_the_other(seed: int, never: set[int]) -> None:
    scores, passes = table(seed), list[int]()
    tokens, _ = greedy(prompts(), counted(scores, passes), {0}, never=never)
    for row, last in zip(tokens.tolist(), (3, 4), strict=True):
        text = by_hand(scores, last, 6, never)
        assert row[: len(text)] == text
    assert len(passes) <= 7, "every pass gets one more right, and the last one says so"
    right, again = greedy(prompts(), counted(scores, passes := list[int]()), {0}, guess=tokens, never=never)
    assert passes == [2] and torch.equal(right[:, 0], tokens[:, 0])
    for last, likely in zip((3, 4), again.tolist(), strict=True):
        text = by_hand(scores, last, 6, never)
        pairs = zip([last, *text], text, strict=False)
        assert likely == pytest.approx(sum(float(scores[a].log_softmax(dim=0)[b]) for a, b in pairs), rel=1e-5)


def test_a_text_that_is_right_takes_no_more_passes() -> None:
    scores, passes = table(1), list[int]()
    right = greedy(prompts(), counted(scores, []), {0})[0]
    wrong = right.clone()
    wrong[1, 0] = (wrong[1, 0] + 1) % 12
    tokens, _ = greedy(prompts(), counted(scores, passes), {0}, guess=wrong)
    assert passes[0] == 2 and set(passes[1:]) == {1} and not (tokens != right)[0].any()


def test_after_the_first_end() -> None:
    assert after(torch.tensor([[4, 0, 0, 3], [1, 1, 1, 1]]), torch.tensor([0])).tolist() == [
        [False, False, True, True],
        [False] * 4,
    ]


@torch.no_grad()
def test_padded_prompts_say_what_each_says_alone() -> None:
    family = loaded("LLaVA")
    images = [picture(0), picture(1)]
    both = prompts_of(family.model, family.processor, images, TEXTS, 3)
    tokens = torch.tensor([[9, 10, 11], [12, 13, 14]])
    together = both.decided(family.model(**both.with_tokens(tokens)))
    assert both.starts[0] < both.starts[1] and len(both.prompts[0]) == both.starts[0]
    for i in range(2):
        alone = prompts_of(family.model, family.processor, images[i : i + 1], TEXTS[i : i + 1], 3)
        expected = alone.decided(family.model(**alone.with_tokens(tokens[i : i + 1])))
        torch.testing.assert_close(together[i : i + 1], expected)
    again = both.of(torch.tensor([1, 0, 1]))
    repeated = again.decided(family.model(**again.with_tokens(tokens[[1, 0, 1]])))
    torch.testing.assert_close(repeated, together[[1, 0, 1]])


def test_pictures_of_different_sizes_are_taken_one_at_a_time() -> None:
    family = loaded("Qwen2-VL")
    marker = "<|vision_start|><|image_pad|><|vision_end|>"
    with pytest.raises(ValueError, match="different shapes of these images"):
        prompts_of(
            family.model, family.processor, [picture(0), picture(1, (300, 100))], [marker + text for text in TEXTS], 2
        )
