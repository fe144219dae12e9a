"""What generative models write: every family from its own folder and processor, against the words one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xai import Target, adapter_for, explain, explain_generated, explain_recording, record
from xai.generation import explain as explain_module
from xai.generation.goals import tokens_of
from xai.generation.inputs import Passage, continuation, passage, prompt_inputs, special_ids, tokenizer_of
from xai.generation.pictures import pictures_of
from xai.generation.steps import require_order
from xai.results.captions import CaptionRelevance

from ..toys import snapshot
from .families import MODELS, Generative, loaded

ANSWERED = {name: ["ein", "Hund", "🐶"] for name in MODELS}
ANSWERED |= {name: [*"一只狗🐶."] for name in MODELS if name.startswith(("Qwen", "InternVL"))}
ANSWERED |= {"BLIP": ["a", "doggy", "."], "BLIP, a prompt": ["a", "doggy", "."], "T5": ["ein", "Hund"]}
SINGLE = {"atol": 1e-5, "rtol": 1e-4}  # RMSNorm of transformers computes in single precision
METHODS = ("genatt", "wra", "attn_lrp")


def given(family: Generative) -> tuple[dict[str, Any], list[int]]:
    """The prompt's arguments and the answer's tokens."""
    inputs = prompt_inputs(family.model, family.processor, family.images, family.text, None)
    return inputs, tokens_of(tokenizer_of(family.processor), family.answer)


def explained(family: Generative, answer: str | None = None, **options: Any) -> CaptionRelevance:
    answer = family.answer if answer is None else answer
    return explain_generated(family.model, family.processor, family.images or None, family.text, answer, **options)


def last(token: int) -> Target:
    return Target(str(token), lambda outputs: outputs.logits[:, -1, token])


@pytest.mark.parametrize("name", list(MODELS))
def test_the_words_are_those_of_the_answer_and_the_scores_those_of_each_token_alone(name: str) -> None:
    """Each token's own pass ends before it; one pass and one batched backward pass say the same of all."""
    family = loaded(name)
    inputs, tokens = given(family)
    alone = {}
    for step in (0, len(tokens) - 1):
        shorter = passage(family.model, inputs, tokens[:step])
        with record(family.model, adapter_for(family.model, shorter.inputs), "tokens") as recorder:
            family.model(**shorter.inputs)
        alone[step] = shorter, recorder.recording
    for method in METHODS:
        found = explained(family, method=method)
        assert found.words == [ANSWERED[name]]
        for step, (shorter, recording) in alone.items():
            check(
                shorter,
                found.steps.rows([step]).scores,
                explain_recording(recording, method, last(tokens[step])).scores,
            )


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
    special = special_ids(tokenizer_of(family.processor), family.model)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "suppress_tokens": sorted(special)}
    more = family.model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    tokens = continuation(family.model, inputs, special, options)
    assert more.sequences[0, -4:].tolist() == tokens
    whole = passage(family.model, inputs, tokens)
    with torch.no_grad():
        logits = family.model(**whole.inputs).logits[0, whole.start - 1 : whole.start + 3]
    torch.testing.assert_close(logits, torch.cat(more.logits).to(logits), **SINGLE)


@pytest.mark.parametrize("name", ["BLIP", "T5"])
def test_what_the_model_writes_by_itself(name: str) -> None:
    family = loaded(name)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "suppress_tokens": sorted(special_of(family))}
    found = explain_generated(
        family.model, family.processor, family.images or None, family.text, method="genatt", generation=options
    )
    inputs, _ = given(family)
    tokens = continuation(family.model, inputs, special_of(family), options)
    assert len(found.tokens[0]) == len(tokens) == 5
    text = tokenizer_of(family.processor).decode(tokens)
    assert "".join(found.words[0]).replace("␣", "") == "".join(text.split()).replace("▁", "_")


def special_of(family: Generative) -> set[int]:
    return special_ids(tokenizer_of(family.processor), family.model)


def test_fewer_words_at_once_say_the_same() -> None:
    family = loaded("InternVL")
    many, few = explained(family), explained(family, at_once=4)
    for name, scores in many.steps.scores.items():
        torch.testing.assert_close(few.steps.scores[name], scores)
    assert few.words == many.words and few.places == many.places


@pytest.mark.parametrize("method", ["genatt", "wra", "attn_lrp"])
def test_all_words_cost_one_recorded_and_one_backward_pass(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the pass that shows what the model is made of, once for each structure of inputs."""
    family, calls, backward = loaded("LLaVA"), [], []
    explained(family, method=method)
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: backward.append(1) or grad(*args, **kwargs))
    handle = family.model.register_forward_hook(lambda *_: calls.append(1))
    found = explained(family, method=method)
    assert (len(calls), len(backward)) == (1, 1) and len(found.tokens[0]) == 10
    explained(family, method=method, at_once=4)
    assert (len(calls), len(backward)) == (2, 4)
    monkeypatch.setattr(explain_module, "GRADIENTS", 1)
    explained(family, method=method)
    assert (len(calls), len(backward)) == (3, 14)
    handle.remove()


def test_figures_are_those_of_the_logits() -> None:
    """By gradients, which are linear: of the margin and of the log-probability, as sums of gradients of logits."""
    family = loaded("GPT-2")
    inputs, tokens = given(family)
    whole = passage(family.model, inputs, tokens)
    with record(family.model, adapter_for(family.model, whole.inputs)) as recorder:
        logits = family.model(**whole.inputs).logits[0, whole.start - 1 :].detach()

    def by_logits(step: int, weights: Tensor) -> Tensor:
        def score(outputs: Any) -> Tensor:
            return (outputs.logits[:, whole.start - 1 + step] * weights).sum(dim=-1)

        return explain_recording(recorder.recording, "input_gradient", score).scores["text"]

    step = 3
    own = torch.nn.functional.one_hot(torch.tensor(tokens[step]), logits.shape[-1]).double()
    likeliest = logits[step].masked_fill(own.bool(), -torch.inf).argmax()
    margin = own - torch.nn.functional.one_hot(likeliest, logits.shape[-1])
    for figure, weights in (
        ("margin", margin),
        ("log_probability", own - logits[step].softmax(dim=-1)),
        ("logit", own),
    ):
        found = explained(family, method="input_gradient", target=figure).steps.rows([step]).scores
        together = torch.cat([found["prompt"], found["text"]], dim=1)
        torch.testing.assert_close(together, by_logits(step, weights))


@pytest.mark.parametrize("name", ["Qwen2-VL", "T5"])
def test_a_phrase_is_the_sum_of_its_tokens(name: str) -> None:
    family = loaded(name)
    phrase = "只狗" if name == "Qwen2-VL" else "Hund"
    each = explained(family, method="input_gradient", target="log_probability")
    one = explained(family, method="input_gradient", target="log_probability", phrase=phrase)
    assert one.words == [[phrase]] and len(one.tokens[0]) == 1
    words = [i for i, word in enumerate(each.words[0]) if word in phrase]
    rows = [place for i in words for place in each._merged[0][i][1]]
    for modality, scores in each.steps.scores.items():
        torch.testing.assert_close(one.steps.scores[modality], scores[rows].sum(dim=0, keepdim=True), **SINGLE)
    (between,) = one.between_words()
    assert between.shape == (1, 1) and between.item() == 0
    with pytest.raises(ValueError, match="the phrase 'Katze' is no sequence of words of"):
        explained(family, phrase="Katze")


def test_why_not_another_answer() -> None:
    family = loaded("GPT-2")
    found = explained(family, " ein Hund", method="input_gradient", rather_than=" ein Kater")
    assert found.words == [["Hund rather than Kater"]]
    tokens, others = (tokens_of(family.processor, text) for text in (" ein Hund", " ein Kater"))
    place = next(i for i, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1])
    one = explained(family, " ein Hund", method="input_gradient").steps.scores
    other = explained(family, " ein Kater", method="input_gradient").steps.scores
    torch.testing.assert_close(found.steps.scores["prompt"][0], one["prompt"][place] - other["prompt"][place])
    for answer in (" ein Hund", " ein Hundchen"):
        with pytest.raises(ValueError, match="do not differ"):
            explained(family, " ein Hund", rather_than=answer)
    with pytest.raises(ValueError, match="not both"):
        explained(family, phrase="Hund", rather_than=" ein Kater")


@pytest.mark.parametrize("name", ["LLaVA", "LLaVA-NeXT", "Gemma 3", "Qwen2.5-VL"])
def test_image_tokens_alone(name: str) -> None:
    """What a token of the image has goes to the patches it is made from: of rollout, in the language model alone, by hand."""
    family = loaded(name)
    inputs, tokens = given(family)
    whole = passage(family.model, inputs, tokens)
    found = explained(family, method="rollout", image_tokens=True)
    with record(family.model, adapter_for(family.model, whole.inputs)) as recorder:
        family.model(**whole.inputs)
    stream = len(whole.ids)
    R = torch.eye(stream).double()
    for event in recorder.recording.events:
        if event.A.shape[-1] == stream:
            M = event.A[0].detach().mean(dim=0) + torch.eye(stream)
            R = (M / M.sum(dim=-1, keepdim=True)) @ R
    row = R[whole.start + 1]  # decides the third token
    at = [place for place, number in enumerate(whole.ids) if number == family.model.config.image_token_id]
    scores = torch.cat([part[2] for key, part in found.steps.scores.items() if key.startswith("image")])
    torch.testing.assert_close(scores.sort().values, row[at].sort().values)
    grids = {"LLaVA": (4, 4), "LLaVA-NeXT": (4, 4), "Gemma 3": (2, 2), "Qwen2.5-VL": (2, 2)}
    parts = [part for key, part in found.steps.modalities.items() if key.startswith("image")]
    assert all(part.grid == grids[name] for part in parts) and len(parts) == (3 if name == "LLaVA-NeXT" else 1)
    for method in ("genatt", "attn_lrp", "input_gradient"):
        other = explained(family, method=method, image_tokens=True)
        assert sum(float(part.abs().sum()) for key, part in other.steps.scores.items() if key.startswith("image")) > 0


def test_without_a_tower_there_are_no_image_tokens() -> None:
    for name in ("BLIP", "GPT-2"):
        with pytest.raises(ValueError, match="no image tokens that are made from patches"):
            explained(loaded(name), image_tokens=True)


def test_shares_of_image_prompt_and_text() -> None:
    (shares,) = explained(loaded("LLaVA-NeXT"), method="genatt").shares()
    assert list(shares) == ["image", "prompt", "text"] and all(len(share) == 3 for share in shares.values())
    torch.testing.assert_close(sum(shares.values()), torch.ones(3).double())
    assert shares["text"][0] > 0  # of its own first piece alone
    (shares,) = explained(loaded("BLIP"), method="genatt").shares()
    assert list(shares) == ["image", "text"] and shares["text"][0] == 0


def test_pictures_are_what_the_model_saw() -> None:
    for name in ("Qwen2-VL", "Idefics3"):  # of images that need not be resized
        family = loaded(name)
        (pictures,) = explained(family, method="rollout").pictures or ()
        whole = torch.from_numpy(np.array(family.images[0])).movedim(-1, 0) / 255
        seen = pictures["image"] if name == "Qwen2-VL" else torch.cat([pictures["image"], pictures["image 2"]], dim=-1)
        torch.testing.assert_close(seen, whole, atol=2e-3, rtol=0)


def test_each_of_several_images_of_qwen_has_its_picture() -> None:
    processor = loaded("Qwen2-VL").processor
    images = [torch.rand(3, 16, width, generator=torch.Generator().manual_seed(width)) for width in (16, 24)]
    inputs = processor.image_processor(images, do_resize=False, do_rescale=False, return_tensors="pt")
    pictures = pictures_of(processor, inputs, ["image", "image 2"])
    for picture, image in zip(pictures.values(), images, strict=True):
        torch.testing.assert_close(picture, image)


def test_a_chat_or_the_text_as_it_is() -> None:
    family = loaded("Llama")
    messages = [{"role": "user", "content": "Was?"}]
    plain, chat, own = (
        explain_generated(family.model, family.processor, None, text, family.answer, "rollout", chat=how)
        for text, how in (("Was?", False), ("Was?", None), (messages, None))
    )
    for found, words in ((plain, "Was ?"), (chat, "USER : Was ? ASSISTANT :"), (own, "USER : Was ? ASSISTANT :")):
        assert [word for word, _ in found.steps.by_word("prompt")[0]] == words.split()
    llava = loaded("LLaVA")
    content = [{"type": "text", "text": "Was?"}, {"type": "image"}]
    asked = [{"role": "user", "content": content}]
    found = explain_generated(llava.model, llava.processor, llava.images, asked, llava.answer, "rollout")
    assert found.word_maps()[0].shape == (3, 4, 4)
    with pytest.raises(ValueError, match="no chat template"):
        explained(loaded("GPT-2"), chat=True)


def test_methods_of_many_passes() -> None:
    family = loaded("GPT-2")
    found = explained(family, " ein", method="integrated_gradients", steps=2)
    inputs, _ = given(family)
    tokens = tokens_of(family.processor, " ein")
    shorter = passage(family.model, inputs, tokens[:2])
    alone = explain(family.model, shorter.inputs, "integrated_gradients", last(tokens[2]), steps=2).scores["text"]
    torch.testing.assert_close(
        torch.cat([found.steps.scores["prompt"], found.steps.scores["text"]], dim=1)[2:, :-1], alone
    )


def test_refusals() -> None:
    family = loaded("GPT-2")
    with pytest.raises(ValueError, match="neither text nor an image"):
        explain_generated(family.model, family.processor)
    for answer in ("", "<|endoftext|>"):
        with pytest.raises(ValueError, match="give one with words"):
            explained(family, answer)
    with pytest.raises(ValueError, match="tokens have no pixels"):
        explained(family, method="pixel_lrp")
    with pytest.raises(ValueError, match="at_once is 0"):
        explained(family, at_once=0)
    with pytest.raises(ValueError, match="wrote no words"):
        explain_generated(
            family.model, family.processor, text="Das", generation={"max_new_tokens": 1, "forced_eos_token_id": 0}
        )


def test_a_model_that_looks_ahead_is_refused() -> None:
    """Kinds of tokens by which PaliGemma takes the answer for the prompt, all of which attends to all."""
    family = loaded("PaliGemma")
    inputs, tokens = given(family)
    whole = passage(family.model, inputs, tokens)
    ahead = {**whole.inputs, "token_type_ids": torch.zeros_like(whole.inputs["token_type_ids"])}
    for arguments, allowed in ((whole.inputs, True), (ahead, False)):
        with record(family.model, adapter_for(family.model, arguments)) as recorder:
            family.model(**arguments)
        stream = recorder.recording.events[-1].queries
        if allowed:
            require_order(recorder.recording, stream, whole.start - 1)
            continue
        with pytest.raises(ValueError, match=r"module '.*layers.0.self_attn' attends to words that are written later"):
            require_order(recorder.recording, stream, whole.start - 1)


def test_nothing_of_the_model_is_changed() -> None:
    family = loaded("LLaVA")
    before, state = snapshot(family.model), torch.random.get_rng_state()
    explain_generated(
        family.model, family.processor, family.images, family.text, method="genatt", generation={"max_new_tokens": 3}
    )
    assert snapshot(family.model) == before and torch.equal(torch.random.get_rng_state(), state)
