"""Models of transformers that write: greedy texts, answers and captions explained, and what they say without some tokens."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image
from torch import Tensor, nn

from clipmapper.config import ModelSource
from clipmapper.explain.models.base import QuestionBatch
from clipmapper.explain.models.blip import BlipAnswers
from clipmapper.explain.models.captioner import CaptionBatch
from clipmapper.explain.models.classifiers import TransformersClassifier
from clipmapper.explain.models.generative import GenerativeCaptioner, GenerativeVQA
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.stock import differing
from xai import explain_generated, explain_recording
from xai.metrics.perturbation import Perturbed

from ....xai.adapters.stock import BLIP_TEXT, STOCK, VISION
from ....xai.generation.families import Generative, loaded, picture

QUESTIONS = ["ein Hund?", "Hund ist ein doof ei nd Hund?"]
SOFT = [{"yes": 1.0}, {"no": 0.9}]


def drawn(model: nn.Module) -> Any:
    torch.manual_seed(2)
    for weight in model.parameters():  # such that answers depend on images and words
        nn.init.normal_(weight, std=0.3)
    return model.eval()


def batch_of(questions: Sequence[str], images: Sequence[Image.Image] | None = None) -> QuestionBatch:
    images = images or [picture(i) for i in range(len(questions))]
    return QuestionBatch(list(images), [""] * len(images), {"question": list(questions)}, SOFT[: len(images)])


@pytest.fixture(scope="module")
def llava() -> Generative:
    return replace(loaded("LLaVA"), model=drawn(deepcopy(loaded("LLaVA").model)))


@pytest.fixture(scope="module")
def blip() -> Generative:
    return replace(loaded("BLIP"), model=drawn(deepcopy(loaded("BLIP").model)))


@pytest.fixture(scope="module")
def blip_vqa(blip: Generative) -> Any:
    text = {**BLIP_TEXT, "vocab_size": len(blip.processor.tokenizer), "max_position_embeddings": 40}
    vision = {**VISION, "image_size": 16, "patch_size": 4}
    return drawn(tf.BlipForQuestionAnswering(tf.BlipConfig(text_config=text, vision_config=vision)))


def answered(model: GenerativeVQA, questions: Sequence[str]) -> list[list[int]]:
    return model.answer(model.prepare(batch_of(questions)))


def test_texts_are_those_of_the_library(llava: Generative, blip_vqa: Any, blip: Generative) -> None:
    model, written = GenerativeVQA(llava.model, llava.processor), list[tuple[GenerativeVQA, list[int], Tensor]]()
    for i, (question, tokens) in enumerate(zip(QUESTIONS, answered(model, QUESTIONS), strict=True)):
        content = [{"type": "image", "image": picture(i)}, {"type": "text", "text": question}]
        inputs = llava.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = llava.model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        written.append((model, tokens, ids))
    questions = ["a dog", "a doggy of a dog"]
    model = GenerativeVQA(BlipAnswers(blip_vqa), blip.processor)
    for i, tokens in enumerate(answered(model, questions)):
        inputs = blip.processor(images=picture(i), text=questions[i], return_tensors="pt")
        written.append((model, tokens, blip_vqa.generate(**inputs, max_new_tokens=10, do_sample=False)[0, 1:]))
    assert any(len(tokens) > 3 for _, tokens, _ in written)
    for writer, tokens, ids in written:
        assert ids[: len(tokens)].tolist() == tokens and (len(tokens) == 10 or int(ids[len(tokens)]) in writer.ends)


def test_a_batch_is_its_questions_one_by_one(llava: Generative) -> None:
    """Answers, relevance of patches and words, and what is said without some: the shorter prompt is padded."""
    model = GenerativeVQA(llava.model, llava.processor)
    together = model.prepare(batch_of(QUESTIONS))
    recorded = model.record(together, "tokens")
    for i in range(2):
        inputs = model.prepare(batch_of(QUESTIONS[i : i + 1], [picture(i)]))
        alone = model.record(inputs, "tokens")
        assert alone.labels == recorded.labels[i : i + 1]
        for method in ("wra", "genatt", "attn_lrp"):
            whole = explain_recording(recorded.recording, method, recorded.target).with_words(recorded.words)
            single = explain_recording(alone.recording, method, alone.target).with_words(alone.words)
            assert [word for word, _ in whole.by_word("text")[i]] == [word for word, _ in single.by_word("text")[0]]
            torch.testing.assert_close(whole.scores["image"][i], single.scores["image"][0])
            content = single.content("text")[0]
            torch.testing.assert_close(
                whole.scores["text"][i][whole.content("text")[i]], single.scores["text"][0][content]
            )
        for modality in ("image", "text"):
            protocol = model.protocol("recommended", modality)
            some = [
                model.predictor(given, found, protocol)(without(found.recording, modality, [row]))
                for given, found, row in ((together, recorded, i), (inputs, alone, 0))
            ]
            torch.testing.assert_close(some[0], some[1])


def without(recording: Any, modality: str, rows: list[int]) -> Perturbed:
    """Every second content token removed."""
    tokens = recording.modalities[modality]
    keep, content = recording.mask[rows][:, tokens].clone(), (recording.mask & ~recording.special)[rows][:, tokens]
    for row, real in zip(keep, content, strict=True):
        row[real.nonzero()[1::2, 0]] = False
    return Perturbed(torch.tensor(rows), keep, int(keep[0].sum()))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_removal_is_that_of_passes_one_token_after_the_other(llava: Generative, modality: str) -> None:
    """Words by the language model's own mask; patches by a tower that never had them, their image tokens masked."""
    model = GenerativeVQA(llava.model, llava.processor)
    inputs = model.prepare(batch_of(QUESTIONS[:1]))
    recorded = model.record(inputs, None)
    batch = without(recorded.recording, modality, [0])
    assert model.protocol("recommended", modality).removal == ("drop" if modality == "image" else "attention_mask")
    found = model.predictor(inputs, recorded, model.protocol("recommended", modality))(batch)
    pixels, prompt = inputs.prompts.arguments["pixel_values"], inputs.prompts.prompts[0]
    images = [i for i, token in enumerate(prompt) if token == llava.model.config.image_token_index]
    texts = [i for i in range(len(prompt)) if i not in images]
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    tower, kept = llava.model.get_submodule("model.vision_tower"), torch.ones(17, dtype=torch.bool)
    if modality == "image":
        kept = batch.keep[0]
        mask[0, torch.tensor(images)[~kept[1:]]] = 0
    else:
        mask[0, torch.tensor(texts)[~batch.keep[0, : len(texts)]]] = 0
    with torch.no_grad():
        states = torch.zeros(1, 17, 16).to(pixels)
        states[:, kept] = encoded(tower, pixels, kept)
        features = llava.model.model.multi_modal_projector(states[:, 1:])

        def following(tokens: list[int]) -> Tensor:
            ids = torch.tensor([[*prompt, *tokens]])
            embedded = llava.model.get_input_embeddings()(ids)
            embedded[:, images] = features
            longer = torch.cat([mask, torch.ones(1, len(tokens), dtype=torch.long)], dim=1)
            return llava.model(inputs_embeds=embedded, attention_mask=longer).logits[0, -1].log_softmax(dim=0)

        likely, said = 0.0, list[int]()
        for place, token in enumerate([*recorded.labels[0], model.end][: model.room]):
            likely += float(following(recorded.labels[0][:place])[token])
        while len(said) < model.room and (token := int(following(said).argmax())) not in model.ends:
            said.append(token)
    assert float(found["probability"]) == pytest.approx(torch.tensor(likely).exp().item(), rel=1e-3)
    soft = [{model.text(said).lower(): 0.5}]
    inputs.soft[:] = soft
    right = model.accuracies(inputs, [said])
    again = model.predictor(inputs, recorded, model.protocol("recommended", modality))(batch)["accuracy"].tolist()
    assert again == pytest.approx(right)


def encoded(tower: Any, pixels: Tensor, kept: Tensor) -> Tensor:
    """The tower's states of the layer that LLaVA reads, of some tokens alone."""
    embeddings = next(module for name, module in tower.named_modules() if name.endswith("embeddings"))
    with embeddings.register_forward_hook(lambda m, args, output: output[:, kept]):
        return tower(pixels, output_hidden_states=True).hidden_states[-2]


def test_covered_patches_where_image_tokens_are_made_from_several() -> None:
    family, prompt = loaded("InternVL"), "<IMG_CONTEXT>{question} !"
    whole = deepcopy(family.processor)
    whole.image_processor.max_patches = 1
    with pytest.raises(ValueError, match="cuts a picture into tiles"):
        GenerativeVQA(family.model, family.processor, prompt).probe()
    model = GenerativeVQA(drawn(deepcopy(family.model)), whole, prompt)
    protocol = model.protocol("recommended", "image")
    assert protocol.removal == "mean" and not model.hides_patches
    inputs = model.prepare(batch_of(QUESTIONS[:1]))
    recorded = model.record(inputs, None)
    nothing = Perturbed(torch.tensor([0]), torch.zeros(1, 17, dtype=torch.bool) | recorded.recording.special[:, :17], 1)
    grey = model.prepare(batch_of(QUESTIONS[:1]))
    values = grey.prompts.arguments["pixel_values"]
    values[:] = values.mean(dim=(2, 3), keepdim=True)
    grey.answers.extend(recorded.labels)
    both = [
        model.predictor(given, found, protocol)(batch)["probability"]
        for given, found, batch in (
            (inputs, recorded, nothing),
            (grey, model.record(grey, None), nothing._replace(keep=torch.ones(1, 17, dtype=torch.bool))),
        )
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-3, atol=0)


def test_captions_are_explained_as_by_xai(blip: Generative) -> None:
    model = GenerativeCaptioner(blip.model, blip.processor)
    images = [picture(0), picture(1)]
    inputs = model.prepare(images)
    tokens = [caption[: 3 + i] for i, caption in enumerate(model.write(inputs))]  # of different lengths
    assert all(tokens)
    recorded = model.record(CaptionBatch(inputs, tokens), None)
    steps = explain_recording(recorded.recording, "wra", recorded.target)
    relevance = model.relevance(CaptionBatch(inputs, tokens), steps)
    for i, image in enumerate(images):
        answer = model.text(tokens[i])
        alone = explain_generated(blip.model, blip.processor, image, answer=answer, method="wra")
        assert relevance.words[i] == alone.words[0] == model.words(tokens)[i]
        torch.testing.assert_close(relevance.word_maps()[i], alone.word_maps()[0])
        torch.testing.assert_close(relevance.between_words()[i], alone.between_words()[0])


def test_a_prompt_that_ends_with_the_question_or_has_none_is_refused(llava: Generative) -> None:
    with pytest.raises(ValueError, match=r"no place for the question: write \{question\}"):
        GenerativeVQA(llava.model, llava.processor, "what is it?")
    plain = GenerativeVQA(llava.model, llava.processor, "<image> {question}")
    with pytest.raises(ValueError, match="ends with the question"):
        plain.prepare(batch_of(QUESTIONS))


def test_differing_ids() -> None:
    assert differing([1, 7, 7, 2, 3], [1, 2, 3]) == slice(1, 3)
    assert differing([1, 2, 2, 3], [1, 2, 3]) == slice(2, 3)  # a repeated end counts as beginning, not twice


@pytest.fixture(scope="module")
def folders(
    llava: Generative, blip: Generative, blip_vqa: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    vilt = drawn(
        tf.ViltForQuestionAnswering(tf.ViltConfig(**STOCK["ViLT"]().model.config.to_diff_dict() | {"num_labels": 2}))
    )
    vilt.config.id2label = {0: "yes", 1: "no"}
    squares = tf.ViltImageProcessor(size={"shortest_edge": 16}, size_divisor=8)
    saved = {
        "llava": (llava.model, llava.processor),
        "blip": (blip.model, blip.processor),
        "blip vqa": (blip_vqa, blip.processor),
        "vilt": (vilt, tf.ViltProcessor(squares, blip.processor.tokenizer)),
    }
    root = tmp_path_factory.mktemp("saved")
    for name, parts in saved.items():
        for part in parts:
            part.save_pretrained(root / name)
    return {name: root / name for name in saved}


def test_kinds_are_known_from_folders(folders: dict[str, Path]) -> None:
    kinds = {name: load_model(ModelSource(str(path))) for name, path in folders.items()}
    expected = {
        "llava": GenerativeVQA,
        "blip": GenerativeCaptioner,
        "blip vqa": GenerativeVQA,
        "vilt": TransformersClassifier,
    }
    assert {name: type(model) for name, model in kinds.items()} == expected
    captions = load_model(ModelSource(str(folders["llava"]), prompt="What is there?"))
    assert isinstance(captions, GenerativeCaptioner) and captions.prompt == "What is there?"
    answers = load_model(ModelSource(str(folders["blip"]), prompt="{question} a"))
    assert isinstance(answers, GenerativeVQA)
    with pytest.raises(ValueError, match="prompt is no option of kind classifier"):
        load_model(ModelSource(str(folders["vilt"]), prompt="{question}"))


@pytest.mark.parametrize("name", ["blip vqa", "vilt"])
def test_answers_of_an_encoder_with_a_decoder_and_of_a_classifier(folders: dict[str, Path], name: str) -> None:
    model: Any = load_model(ModelSource(str(folders[name])))
    questions = ["a dog"] if name == "vilt" else ["a dog", "a doggy of a dog"]
    inputs = model.prepare(batch_of(questions))
    recorded = model.record(inputs, None)
    shown = explain_recording(recorded.recording, "genatt", recorded.target).with_words(recorded.words)
    assert [[word for word, _ in words] for words in shown.by_word("text")] == [
        question.split() for question in questions
    ]
    assert model.batch_size == (1 if name == "vilt" else 32)  # ViLT's pictures have different sizes
    for modality in ("image", "text"):
        predict = model.predictor(inputs, recorded, model.protocol("recommended", modality))
        tokens = recorded.recording.modalities[modality]
        rows = torch.arange(len(questions))
        whole = predict(Perturbed(rows, recorded.recording.mask[:, tokens], 0))
        less = predict(without(recorded.recording, modality, rows.tolist()))
        assert not torch.allclose(whole["probability"], less["probability"], rtol=1e-6)
