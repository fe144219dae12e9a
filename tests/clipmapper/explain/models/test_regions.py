"""Models of regions: what they are given, under which names it is explained, fillers, and the truth in boxes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipmapper.data.shapes.truth import Truth
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import PreparedQuestions, VQAModel, prepare_questions
from clipmapper.explain.models.regions import RegionModel, box_shares
from xai import explain, explain_recording, given
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Protocol, Removal
from xai.targets import logits

from .conftest import regions

ROWS = [0, 9]


@pytest.fixture(params=["lxmert", "visualbert"])
def model(request: pytest.FixtureRequest, models: dict[str, VQAModel]) -> RegionModel:
    found = models[request.param]
    assert isinstance(found, RegionModel)
    return found


@pytest.fixture
def asked(model: RegionModel, questions: Questions) -> PreparedQuestions:
    return prepare_questions(model, questions, ROWS)


def test_what_the_model_is_given(model: RegionModel, asked: PreparedQuestions, questions: Questions) -> None:
    inputs = asked.inputs
    for b, row in enumerate(ROWS):
        record = questions.records[row]
        boxes, features = regions(record["image_id"], 128, 128)
        count = len(boxes)
        given_features = inputs.arguments[model.family.regions[0]][b]
        torch.testing.assert_close(given_features[:count], torch.from_numpy(features).double())
        assert inputs.arguments["visual_attention_mask"][b].sum() == count
        torch.testing.assert_close(inputs.boxes[b, :count], torch.from_numpy(boxes) / 128)
        question = record["question"]
        spoken = [question[first:last].lower() for first, last in inputs.spans[b].tolist()]
        assert [word.removeprefix("##") for word in inputs.words[b] if word[0] != "["] == [w for w in spoken if w]
        assert inputs.words[b][0] == "[CLS]" and inputs.words[b][int(inputs.arguments["attention_mask"][b].sum()) - 1]


def test_image_is_another_name_for_regions(model: RegionModel, asked: PreparedQuestions) -> None:
    recorded = model.record(asked.inputs, None)
    for method in ("wra", "genatt"):
        own = explain(model.module, asked.inputs.arguments, method, given(recorded.labels))
        found = explain_recording(recorded.recording, method, recorded.target)
        assert set(own.scores) == {"regions", "text"} and set(found.scores) == {"image", "text"}
        torch.testing.assert_close(found.scores["image"], own.scores["regions"])
        torch.testing.assert_close(found.scores["text"], own.scores["text"])
        assert found["image"].mask.equal(own["regions"].mask) and not found["image"].special.any()


def fillers(model: RegionModel, removal: Removal, features: Tensor, mask: Tensor) -> Tensor:
    """What stands in the place of what is removed, [D]."""
    weight = model.module.get_input_embeddings().weight
    return {
        ("image", "mean"): lambda: features[mask].mean(dim=0),
        ("image", "zero"): lambda: torch.zeros_like(features[0]),
        ("text", "mean"): lambda: weight.mean(dim=0),
        ("text", "zero"): lambda: torch.zeros_like(weight[0]),
        ("text", "mask_token"): lambda: weight[model.tokenizer.vocab["[MASK]"]],
    }[removal]()


@pytest.mark.parametrize(
    "removal", [("image", "mean"), ("image", "zero"), ("text", "mean"), ("text", "zero"), ("text", "mask_token")]
)
@torch.no_grad()
def test_fillers(model: RegionModel, asked: PreparedQuestions, removal: tuple[str, Removal]) -> None:
    modality, how = removal
    arguments, labels = asked.inputs.arguments, torch.tensor([1, 2])
    mask = arguments["visual_attention_mask" if modality == "image" else "attention_mask"].bool()
    keep = mask.clone()
    keep[:, 1] = False
    predict = model.predictor(
        asked.inputs, replace(model.record(asked.inputs, None), labels=labels), Protocol("wra", how, modality)
    )
    for b in range(len(ROWS)):
        own = {name: tensor[[b]] for name, tensor in arguments.items()}
        embedded = model.module.get_input_embeddings()(own.pop("input_ids"))
        changed = own[model.family.regions[0]][0] if modality == "image" else embedded[0]
        before = changed[1].clone()
        changed[1] = fillers(model, removal, changed, mask[b])
        assert not changed[1].equal(before)
        answer = logits(model.module(**own, inputs_embeds=embedded))
        found = predict(Perturbed(torch.tensor([b]), keep[[b]], int(keep[b].sum())))
        probability = model.family.probabilities(answer)[0, labels[b]]
        torch.testing.assert_close(found["probability"][0], probability)
        changed[1] = before  # of features, which are the fixture's own


def test_removals_they_do_not_have(model: RegionModel, asked: PreparedQuestions) -> None:
    for modality, removal in (("image", "blur"), ("text", "attention_mask")):
        with pytest.raises(ValueError, match=f"removal of {'regions' if modality == 'image' else 'words'} '{removal}'"):
            model.predictor(asked.inputs, model.record(asked.inputs, None), Protocol("wra", removal, modality))  # type: ignore[arg-type]


def test_share_of_a_box() -> None:
    """Of 4 x 8 pixels, those right of the middle and in the upper half are covered."""
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:2, 4:] = True
    boxes = torch.tensor(
        [
            [0.0, 0.0, 1.0, 1.0],  # a quarter of the image
            [0.5, 0.0, 1.0, 0.5],  # all of it
            [0.0, 0.0, 0.5, 1.0],
            [0.25, 0.0, 0.75, 0.5],  # half of it
            [0.9, 0.1, 0.9, 0.1],  # a point inside
            [1.0, 1.0, 1.0, 1.0],  # the last pixel
        ]
    )
    assert box_shares(mask, boxes).tolist() == [0.25, 1.0, 0.0, 0.5, 1.0, 0.0]


def test_what_decides(model: RegionModel, asked: PreparedQuestions, shapes_root: Path) -> None:
    truth = Truth(shapes_root)
    share = model.ground_truth(truth, asked, explain_recording(model.record(asked.inputs, None).recording, "random"))
    for b, record in enumerate(asked.records["question_id"]):
        spans = truth.words(record)
        for token, (first, last) in enumerate(asked.inputs.spans[b].tolist()):
            decides = any(set(range(first, last)) & set(range(*span)) for span in spans)
            assert share["text"][b, token] == decides
        assert spans and share["text"][b].any()
        region = torch.from_numpy(truth.region(record, (128, 128)))
        x1, y1, x2, y2 = (128 * asked.inputs.boxes[b, 0]).tolist()
        inside = region[int(y1) : -int(-y2 // 1), int(x1) : -int(-x2 // 1)]
        assert share["image"][b, 0] == pytest.approx(float(inside.double().mean()))
    assert share["image"].shape == asked.inputs.boxes.shape[:2]
