"""The answer head, the loss by hand, and what a blinded model reads."""

import math

import pytest
import torch
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.heads import AnswerHead, LanguageHead, next_token_loss, soft_label_loss

QUESTIONS = ["What color is it?", "How many small red circles are left of the star?"]


def model(**options: object) -> CLIPMapper:
    config = ModelConfig(SHAPES_CLIP, None, width=16, heads=2, layers=1, **options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return CLIPMapper(config, ["yes", "no", "red"]).eval()


def test_loss_is_the_sum_over_answers_and_the_mean_over_questions() -> None:
    logits, scores = [[0.5, -2.0], [3.0, 0.0]], [[0.3, 1.0], [0.0, 0.9]]
    total = 0.0
    for row, targets in zip(logits, scores, strict=True):
        for x, s in zip(row, targets, strict=True):
            p = 1 / (1 + math.exp(-x))
            total -= s * math.log(p) + (1 - s) * math.log(1 - p)
    assert soft_label_loss(torch.tensor(logits), torch.tensor(scores)).item() == pytest.approx(total / 2, rel=1e-6)


def test_loss_of_many_answers_does_not_suffer_from_half_precision() -> None:
    logits = torch.full((1, 3129), -6.0, dtype=torch.bfloat16)
    loss = soft_label_loss(logits, torch.zeros(1, 3129))
    assert loss.item() == pytest.approx(3129 * math.log1p(math.exp(-6)), rel=1e-3)


def test_head_starts_by_finding_every_answer_unlikely() -> None:
    head = AnswerHead(8, 1000, 0.0)
    assert head[-1].bias.sigmoid().mean().item() == pytest.approx(1 / 1000)
    assert head(torch.randn(4, 8)).shape == (4, 1000)


@pytest.mark.parametrize("mapper", ["a", "b"])
@pytest.mark.parametrize("read", ["image", "text"])
def test_blind_models(mapper: str, read: str, tokens: Tensor) -> None:
    both, question, image = (model(mapper=mapper, read=read, sees=sees) for sees in ("both", "question", "image"))
    ids, mask = both.clip.tokenize(QUESTIONS)
    swapped_ids, swapped_mask = both.clip.tokenize(QUESTIONS[::-1])
    some, others = tokens[:2], tokens[1:]

    assert question(some, ids, mask).equal(question(others, ids, mask))
    assert not torch.allclose(question(some, ids, mask), question(some, swapped_ids, swapped_mask), atol=1e-6)
    assert image(some, ids, mask).equal(image(some, swapped_ids, swapped_mask))
    assert not torch.allclose(image(some, ids, mask), image(others, ids, mask), atol=1e-6)
    assert not torch.allclose(both(some, ids, mask), both(others, ids, mask), atol=1e-6)
    assert not torch.allclose(both(some, ids, mask), both(some, swapped_ids, swapped_mask), atol=1e-6)


@pytest.mark.parametrize("mapper", ["a", "b"])
@pytest.mark.parametrize("read", ["image", "text"])
def test_padding_of_shorter_questions_changes_nothing(mapper: str, read: str, tokens: Tensor) -> None:
    reader = model(mapper=mapper, read=read)
    ids, mask = reader.clip.tokenize(QUESTIONS)
    assert not mask.all()
    together = reader(tokens[:2], ids, mask)
    for i, question in enumerate(QUESTIONS):
        alone = reader(tokens[i : i + 1], *reader.clip.tokenize([question]))
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_the_token_read_is_the_class_token_or_the_end_token(tokens: Tensor) -> None:
    for read in ("image", "text"):
        reader = model(read=read)
        ids, mask = reader.clip.tokenize(QUESTIONS)
        image, text = (torch.randn(2, n, 16) for n in (65, ids.shape[1]))
        expected = image[:, 0] if read == "image" else text[torch.tensor([0, 1]), (ids == 49407).nonzero()[:, 1]]
        assert reader.answer_logits(image, text, mask).equal(reader.head(expected))
        whole = reader.answer_logits(*reader.states(tokens[:2], ids, mask), mask)
        torch.testing.assert_close(reader(tokens[:2], ids, mask), whole)


def test_next_token_loss_by_hand() -> None:
    logits, targets = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [9.0, 9.0, 9.0]], [1, 0, -100]  # the last one is left out
    for smoothing in (0.0, 0.3):
        total = 0.0
        for row, target in list(zip(logits, targets, strict=True))[:2]:
            log_sum = math.log(sum(map(math.exp, row)))
            wanted = [(1 - smoothing) * (i == target) + smoothing / 3 for i in range(3)]
            total -= sum(w * (x - log_sum) for w, x in zip(wanted, row, strict=True))
        found = next_token_loss(torch.tensor(logits), torch.tensor(targets), smoothing)
        assert found.item() == pytest.approx(total / 2, rel=1e-6)


def test_tied_head_compares_with_clips_own_embedding() -> None:
    torch.manual_seed(0)
    embedding = 0.02 * torch.randn(7, 5)
    head = LanguageHead(4, 7, embedding)
    x = torch.randn(2, 3, 4)
    scaled = embedding / embedding.square().sum(1).mean().sqrt()
    assert torch.allclose(head(x), head.output(head.norm(x)) @ scaled.T + head.bias)
    assert not any("embedding" in name for name in head.state_dict()), "it comes from CLIP"
    assert {name for name, _ in head.named_parameters()} == {
        "bias",
        "norm.weight",
        "norm.bias",
        "output.weight",
        "output.bias",
    }
    assert LanguageHead(4, 7, None)(x).shape == (2, 3, 7)
