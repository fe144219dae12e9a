"""CLIP zero-shot: its answers are those of open_clip's similarities, its words those of the question."""

from dataclasses import replace

import pytest
import torch

from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import prepare_questions
from clipmapper.explain.models.zero_shot import ZeroShotModel
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from xai import explain, explain_recording, similarity
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Protocol, Removal

ROWS = [0, 9]
PHRASES = ["red", "two stars !", "!"]  # the id of "!" is 0, which also pads


@pytest.fixture(scope="module")
def model() -> ZeroShotModel:
    return ZeroShotModel(FrozenCLIP(SHAPES_CLIP, "shapes"), PHRASES)


@torch.no_grad()
def test_answers_are_the_most_similar_prompts(model: ZeroShotModel, questions: Questions) -> None:
    asked, clip = prepare_questions(model, questions, ROWS), model.clip.model
    image = clip.encode_image(asked.inputs.pixels, normalize=True)
    recorded = model.record(asked.inputs, None)
    shown = explain_recording(recorded.recording, "wra", recorded.target).with_words(recorded.words)
    assert model.logits(asked.inputs).argmax(dim=1).equal(recorded.labels)
    for b, question in enumerate(asked.records["question"]):
        prompts = model.clip.tokenizer([f"{question} {answer}" for answer in PHRASES])
        expected = clip.logit_scale.exp() * image[b] @ clip.encode_text(prompts, normalize=True).T
        found = model.predictor(asked.inputs, recorded, Protocol("wra", "drop", "image"))(
            Perturbed(torch.tensor([b]), torch.ones(1, 65, dtype=torch.bool), 65)
        )
        assert recorded.labels[b] == expected.argmax()
        torch.testing.assert_close(found["probability"][0], expected.softmax(0).max(), atol=1e-5, rtol=1e-4)
        chosen = int(expected.argmax())
        pair = {"image": asked.inputs.pixels[[b]], "text": prompts[[chosen]]}
        own = explain(clip, pair, "wra", similarity())
        relevance = shown
        for modality in ("image", "text"):
            torch.testing.assert_close(relevance.scores[modality][b], own.scores[modality][0], atol=1e-5, rtol=1e-3)
        assert [w for w, _ in relevance.by_word()[b]] == question.lower().replace("?", " ?").replace(",", " ,").split()


@pytest.mark.parametrize("removal", ["drop", "attention_mask", "mask_token", "mean", "zero"])
def test_removed_words_are_so_in_every_prompt(model: ZeroShotModel, removal: Removal, questions: Questions) -> None:
    """However long the answer; what the chosen prompt has after the question does not matter."""
    asked = prepare_questions(model, questions, ROWS)
    inputs, labels = asked.inputs, torch.tensor([0, 1])
    predict = model.predictor(
        inputs, replace(model.record(inputs, None), labels=labels), Protocol("wra", removal, "text")
    )
    for b, label in enumerate(labels.tolist()):
        length = int(inputs.lengths[b])
        keep = torch.zeros(1, 77, dtype=torch.bool)
        keep[:, : length + 2 + len(model.clip.tokenizer.encode(PHRASES[label]))] = True
        keep[:, 1:length] = False  # all words but the last
        found = predict(Perturbed(torch.tensor([b]), keep, int(keep.sum())))
        if removal == "drop":
            last = model.clip.tokenizer.decode([int(inputs.ids[b, 0, length])]).strip()
            prompts = model.clip.tokenizer([f"{last} {answer}" for answer in PHRASES])
            image = model.clip.model.encode_image(inputs.pixels[[b]], normalize=True)
            with torch.no_grad():
                text = model.clip.model.encode_text(prompts, normalize=True)
                expected = (model.clip.model.logit_scale.exp() * image @ text.T).softmax(1)[0, label]
            torch.testing.assert_close(found["probability"][0], expected, atol=1e-5, rtol=1e-4)
        whole = torch.ones(1, 77, dtype=torch.bool) & (torch.arange(77) < keep.nonzero()[-1, 1] + 1)
        uncut = predict(Perturbed(torch.tensor([b]), whole, int(whole.sum())))
        assert found["probability"] != pytest.approx(uncut["probability"], abs=1e-6)


def test_methods_of_clip_s_own_space(model: ZeroShotModel, questions: Questions) -> None:
    inputs = prepare_questions(model, questions, [0, 1]).inputs
    recorded = model.record(inputs, None)
    scores = explain_recording(recorded.recording, "sclip", recorded.target).scores
    assert scores["image"].any() and not scores["text"].any()


def test_long_questions_leave_room_for_every_answer(model: ZeroShotModel) -> None:
    ids, lengths = model._prompts(["is it red " * 40, "why?"])
    ends = ids.argmax(dim=2)
    assert lengths.tolist() == [77 - 2 - 3, 2] and int(ends.max()) == 76
    assert [int(end - lengths[1]) for end in ends[1]] == [2, 4, 2]
    with pytest.raises(ValueError, match="takes all 77 tokens"):
        ZeroShotModel(model.clip, ["red", "blue " * 90])


def test_many_candidates_are_encoded_in_parts(
    model: ZeroShotModel, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare_questions(model, questions, ROWS).inputs.prompts
    monkeypatch.setattr("clipmapper.explain.models.zero_shot.TEXTS", 2)
    torch.testing.assert_close(prepare_questions(model, questions, ROWS).inputs.prompts, whole)


def test_prompts_are_encoded_once_where_patches_are_removed(model: ZeroShotModel, questions: Questions) -> None:
    inputs = prepare_questions(model, questions, ROWS).inputs
    recorded, calls = model.record(inputs, None), list[int]()
    hook = model.clip.model.transformer.register_forward_hook(lambda m, args, out: calls.append(1))
    predict = model.predictor(inputs, recorded, Protocol("wra", "drop", "image"))
    predict(Perturbed(torch.tensor([0, 1]), torch.arange(65).expand(2, 65) < 9, 9))
    hook.remove()
    assert not calls
