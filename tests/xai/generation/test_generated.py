"""What generative models write: every family from its own folder and processor, against the words one by one."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import Target, explain, explain_generated
from xai.generation.inputs import Passage, passage, prompt_inputs, special_ids, tokenizer_of, written
from xai.generation.goals import tokens_of

from .families import MODELS, Generative, loaded

ANSWERED = {name: ["ein", "Hund", "🐶"] for name in MODELS}
ANSWERED |= {name: list("一只狗") + ["🐶", "."] for name in MODELS if name.startswith(("Qwen", "InternVL"))}
ANSWERED |= {"BLIP": ["a", "doggy", "."], "BLIP, a prompt": ["a", "doggy", "."], "T5": ["ein", "Hund"]}
METHODS = ("genatt", "wra", "attn_lrp", "rollout")


def given(family: Generative) -> tuple[dict[str, Any], list[int]]:
    """The prompt's arguments and the answer's tokens."""
    inputs = prompt_inputs(family.model, family.processor, family.images, family.text, None)
    return inputs, tokens_of(tokenizer_of(family.processor), family.answer)


def last(token: int) -> Target:
    return Target(str(token), lambda outputs: outputs.logits[:, -1, token])


@pytest.mark.parametrize("name", list(MODELS))
def test_the_words_are_those_of_the_answer_and_the_scores_those_of_each_token_alone(name: str) -> None:
    """Each token's own pass ends before it; one pass and one batched backward pass say the same of all."""
    family = loaded(name)
    inputs, tokens = given(family)
    for method in METHODS:
        found = explain_generated(
            family.model, family.processor, family.images or None, family.text, family.answer, method
        )
        assert found.words == [ANSWERED[name]]
        for step in (0, 2, len(tokens) - 1):
            shorter = passage(family.model, inputs, tokens[:step])
            alone = explain(family.model, shorter.inputs, method, last(tokens[step])).scores
            check(shorter, found.steps.rows([step]).scores, alone)


def check(shorter: Passage, found: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> None:
    """Against the modalities of a plain explanation: one text, and the images."""
    for name in alone:
        if name.startswith("image"):
            torch.testing.assert_close(found[name], alone[name])
    if shorter.prompt is None:
        length = found["prompt"].shape[1]
        torch.testing.assert_close(found["prompt"], alone["text"][:, :length])
        written = alone["text"][:, length:]
    else:
        torch.testing.assert_close(found["prompt"], alone["text"])
        written = alone["decoder"]
    torch.testing.assert_close(found["text"][:, : written.shape[1]], written)
    assert not found["text"][:, written.shape[1] :].any()


@pytest.mark.parametrize("name", list(MODELS))
def test_the_pass_is_what_generation_computes(name: str) -> None:
    family = loaded(name)
    inputs, _ = given(family)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    more = family.model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    special = special_ids(tokenizer_of(family.processor), family.model)
    tokens = written(family.model, inputs, set(), options)
    assert more.sequences[0, -4:].tolist() == tokens
    whole = passage(family.model, inputs, tokens)
    with torch.no_grad():
        logits = family.model(**whole.inputs).logits[0, whole.start - 1 : whole.start + 3]
    torch.testing.assert_close(logits, torch.cat(more.logits).to(logits), atol=1e-5, rtol=1e-5)
    assert whole.ids[whole.start :] == tokens and special
